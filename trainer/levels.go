package trainer

import (
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/trainer/fitting"
)

// Examples are kept with numbers of their own vocabulary, of two bytes each, so
// that levels are forgotten that none of them has any more: then a new vocabulary
// takes the place of the old one. The dataset of a training under way keeps the
// old one.

// learn brings attributes to the numbers of the examples. A level beyond
// fitting.MaxCodes is as good as missing, as are all that are too rare for the
// fit, which keeps the most frequent hundred. The caller holds mu.
func (t *Trainer) learn(x scoring.Vector, levels scoring.Levels) {
	n := t.data.Vocabulary().Learn(x, t.cfg.Codec.Set().Vocabulary(), levels, fitting.MaxCodes)
	t.leftOut += n
	t.metrics.leftOut.Add(float64(n))
}

// renumber forgets the levels that no example has any more, if there is need of
// room. What has been learnt before and is no example yet has then the wrong
// numbers. The caller holds mu.
func (t *Trainer) renumber() {
	if t.full() && t.leftOut >= fitting.MaxCodes/4 {
		t.data.Renumber(scoring.NewVocabulary(t.data.Spec()))
		t.leftOut = 0
	}
}

// full reports whether a feature has as many levels as can be kept.
func (t *Trainer) full() bool {
	v := t.data.Vocabulary()
	for i := range v.Spec().Len() {
		if v.Size(i) >= fitting.MaxCodes {
			return true
		}
	}
	return false
}
