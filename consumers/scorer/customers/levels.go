package customers

import (
	"math"

	"github.com/churnstream/churnstream/scoring"
)

// levels are the levels that the customers of a table have among them, numbered
// by feature and counted: a level that no customer has any more is forgotten,
// and its number given to another. So they depend on the customers alone, and
// tables that are equal have the same ones in whatever process.
//
// They stand between vectors, which have the vocabulary's numbers, and packed
// records.
type levels struct {
	vocabulary  *scoring.Vocabulary
	size        int // of the vocabulary's features together, when it was last looked at
	features    []featureLevels
	categorical []int    // those that have levels
	before      []uint32 // scratch
	bytes       int
	// renamed counts how often any number was given to a level.
	renamed uint64
}

// featureLevels are those of one feature. The slices are by number.
type featureLevels struct {
	byName map[string]uint32
	byCode []uint32 // one more than the number, by the vocabulary's
	levels []level
	free   []uint32 // numbers that no level has
	held   int      // levels that a customer has
	unused []uint32 // numbers that were looked up and that no customer may have
}

type level struct {
	name      string
	customers int
	// code is the vocabulary's number, NaN if it has none.
	code float64
	// named is what levels.renamed was when the level got its number.
	named uint64
}

// lastNumber bounds the numbers: there are no more customers in a table.
const lastNumber = math.MaxUint32 - 2

// levelBytes is about what a level takes besides its name.
const levelBytes = 100

func newLevels(v *scoring.Vocabulary) levels {
	l := levels{vocabulary: v, features: make([]featureLevels, v.Spec().Len())}
	for i := range l.features {
		if v.Spec().Feature(i).Kind == scoring.Categorical {
			l.categorical = append(l.categorical, i)
		}
	}
	return l
}

// held returns how many levels of a feature there are.
func (l *levels) held(feature int) int { return l.features[feature].held }

// number gives the levels in a vector the table's numbers. Those that are new
// are kept until exchange.
func (l *levels) number(x scoring.Vector, others scoring.Levels) {
	for _, i := range l.categorical {
		code := x[i]
		if scoring.IsMissing(code) {
			continue
		}
		f := &l.features[i]
		if code >= 0 && int(code) < len(f.byCode) && f.byCode[int(code)] > 0 {
			x[i] = float64(f.byCode[int(code)] - 1)
			continue
		}
		n := l.find(i, l.vocabulary.Text(i, code, others))
		if x[i] = float64(n); code >= 0 {
			f.link(n, code) // the vocabulary may have got it after the table
		}
	}
}

// find returns a level's number.
func (l *levels) find(feature int, name string) uint32 {
	f := &l.features[feature]
	if n, ok := f.byName[name]; ok {
		return n
	}
	n := uint32(len(f.levels))
	if last := len(f.free) - 1; last >= 0 {
		n, f.free = f.free[last], f.free[:last]
	} else {
		f.levels = append(f.levels, level{})
	}
	l.renamed++
	l.bytes += levelBytes + len(name)
	f.levels[n] = level{name: name, code: math.NaN(), named: l.renamed}
	if f.byName == nil {
		f.byName = map[string]uint32{}
	}
	f.byName[name] = n
	if code, known := l.vocabulary.Lookup(feature, name); known {
		f.link(n, code)
	}
	f.unused = append(f.unused, n)
	return n
}

// link notes that the vocabulary has a number for a level.
func (f *featureLevels) link(n uint32, code float64) {
	for len(f.byCode) <= int(code) {
		f.byCode = append(f.byCode, 0)
	}
	f.byCode[int(code)], f.levels[n].code = n+1, code
}

// exchange counts the levels of a record, given with the table's numbers, in
// place of those that the customer had before, given as one more; 0 or nothing is
// none. If a feature then has more than most, and more than before, it undoes
// that and returns the feature.
func (l *levels) exchange(before []uint32, x scoring.Vector, most int) (full int, ok bool) {
	l.before = before
	full, ok = 0, true
	for _, i := range l.categorical {
		f := &l.features[i]
		held := f.held
		l.move(f, at(before, i), present(x[i]))
		if f.held > most && f.held > held && ok {
			full, ok = i, false
		}
	}
	if !ok {
		for _, i := range l.categorical {
			l.move(&l.features[i], present(x[i]), at(before, i))
		}
	}
	l.forget()
	return full, ok
}

// at is before[i], 0 beyond its end.
func at(before []uint32, i int) uint32 {
	if i < len(before) {
		return before[i]
	}
	return 0
}

// present is one more than a number in a vector, 0 for a missing one.
func present(x float64) uint32 {
	if scoring.IsMissing(x) {
		return 0
	}
	return uint32(x) + 1
}

// move counts a customer at another level; each is one more than its number, 0
// for none.
func (l *levels) move(f *featureLevels, from, to uint32) {
	if from == to {
		return
	}
	if from > 0 {
		have := &f.levels[from-1]
		if have.customers--; have.customers == 0 {
			f.held--
			f.unused = append(f.unused, from-1)
		}
	}
	if to > 0 {
		have := &f.levels[to-1]
		if have.customers++; have.customers == 1 {
			f.held++
		}
	}
}

// release forgets what a record has, of a customer who is removed.
func (l *levels) release(before []uint32) {
	l.before = before
	for i := range before {
		l.move(&l.features[i], before[i], 0)
	}
	l.forget()
}

// forget gives back the numbers of levels that no customer has.
func (l *levels) forget() {
	for _, i := range l.categorical {
		f := &l.features[i]
		for _, n := range f.unused {
			have := &f.levels[n]
			if have.customers > 0 || have.named == 0 {
				continue
			}
			delete(f.byName, have.name)
			if !math.IsNaN(have.code) {
				f.byCode[int(have.code)] = 0
			}
			l.bytes -= levelBytes + len(have.name)
			*have = level{}
			f.free = append(f.free, n)
		}
		f.unused = f.unused[:0]
	}
}

// vector brings attributes with the table's numbers to those of the vocabulary,
// and adds the levels that it does not have to others, which it returns.
func (l *levels) vector(x scoring.Vector, others scoring.Levels) scoring.Levels {
	for _, i := range l.categorical {
		n := x[i]
		if scoring.IsMissing(n) {
			continue
		}
		have := &l.features[i].levels[int(n)]
		if x[i] = have.code; math.IsNaN(have.code) {
			x[i] = others.Add(have.name)
		}
	}
	return others
}

// renumber looks for the numbers that levels have got in the vocabulary.
func (l *levels) renumber() {
	size := 0
	for _, i := range l.categorical {
		size += l.vocabulary.Size(i)
	}
	if size == l.size {
		return
	}
	l.size = size
	for _, i := range l.categorical {
		f := &l.features[i]
		for n := range f.levels {
			if have := &f.levels[n]; have.named > 0 && math.IsNaN(have.code) {
				if code, known := l.vocabulary.Lookup(i, have.name); known {
					f.link(uint32(n), code)
				}
			}
		}
	}
}
