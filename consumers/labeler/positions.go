package labeler

import (
	"cmp"
	"context"
	"maps"
	"strings"
	"sync"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// input is a partition of the scores or the outcomes.
type input struct {
	topic     string
	partition int
}

func (in input) compare(o input) int {
	// Scores before outcomes: of the same moment, they come first.
	return cmp.Or(-strings.Compare(in.topic, o.topic), cmp.Compare(in.partition, o.partition))
}

// positions say how far this process has read the inputs: as far as the shard that
// has read least.
type positions struct {
	l *Labeler

	mu sync.Mutex
	of map[input]*kafka.Position
	by map[int]map[input]int64 // by shard
}

func newPositions(l *Labeler) *positions {
	return &positions{l: l, of: map[input]*kafka.Position{}, by: map[int]map[input]int64{}}
}

// follow has an input looked at.
func (p *positions) follow(in input, start int64) *kafka.Position {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of[in] == nil {
		p.of[in] = p.l.cfg.Cluster.Follow(name, in.topic, in.partition, start)
	}
	return p.of[in]
}

// set notes how far a shard has read.
func (p *positions) set(shard int, at map[input]int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	of := p.by[shard]
	if of == nil {
		of = map[input]int64{}
		p.by[shard] = of
	}
	for in, offset := range at {
		of[in] = offset
	}
	p.show()
}

// hold keeps what is known of a shard that does not read, so that what it has not
// settled counts as lag, also if nobody reads the inputs at all.
func (p *positions) hold(ctx context.Context, shard int, at map[input]int64) {
	counts := map[string]int{}
	for _, topic := range inputTopics {
		n, err := p.l.cfg.Cluster.Partitions(ctx, topic)
		if err != nil {
			return // it is not there, or does not answer, which others say
		}
		counts[topic] = n
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by[shard] == nil {
		p.by[shard] = maps.Clone(at)
	}
	for topic, n := range counts {
		for partition := range n {
			in := input{topic, partition}
			if p.of[in] != nil {
				continue
			}
			start, known := p.by[shard][in]
			if !known {
				start = -1
			}
			p.of[in] = p.l.cfg.Cluster.Follow(name, topic, partition, start)
		}
	}
	p.show()
}

// drop forgets a shard.
func (p *positions) drop(shard int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.by, shard)
	if len(p.by) > 0 {
		p.show()
		return
	}
	for in, position := range p.of { // nothing is to be read
		position.Close()
		delete(p.of, in)
	}
}

func (p *positions) show() {
	for in, position := range p.of {
		least, known := int64(0), len(p.by) > 0
		for _, at := range p.by {
			offset, ok := at[in]
			if !ok {
				known = false
				break
			}
			if least == 0 || offset < least {
				least = offset
			}
		}
		if known {
			position.Advance(least)
		}
	}
}

// watch returns a context below which waits count as the reason for which the
// positions do not move.
func (p *positions) watch(ctx context.Context) context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, position := range p.of {
		ctx = position.Watch(ctx)
	}
	return ctx
}

func (p *positions) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, position := range p.of {
		position.Close()
	}
	clear(p.of)
}

var inputTopics = []string{schemas.TopicScores, schemas.TopicOutcomes}
