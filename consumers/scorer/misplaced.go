package scorer

import (
	"sync"
	"time"

	"github.com/churnstream/churnstream/schemas"
)

const (
	// misplacedInterval is the time between two lines in the log about
	// misplaced events of one source.
	misplacedInterval = time.Minute
	// maxSources bounds the sources distinguished in the log.
	maxSources = 64
)

// misplaced reports events that lie in another partition than their key's
// murmur2 hash says. They are scored where they lie, but if producers
// disagree about the place, a customer has two states that each know half.
type misplaced struct {
	mu      sync.Mutex
	sources map[string]*misplacedSource
}

type misplacedSource struct {
	count  int // since the last line
	logged time.Time
}

// note counts an event of a source and reports how many there were since the
// last line in the log, if it is time for another one.
func (m *misplaced) note(source []byte, now time.Time) (count int, due bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sources[string(source)]
	if s == nil {
		if len(m.sources) >= maxSources {
			return 0, false
		}
		if m.sources == nil {
			m.sources = map[string]*misplacedSource{}
		}
		s = &misplacedSource{}
		m.sources[string(source)] = s
	}
	s.count++
	if !s.logged.IsZero() && now.Sub(s.logged) < misplacedInterval {
		return 0, false
	}
	count, s.count, s.logged = s.count, 0, now
	return count, true
}

// notePlace counts an event that lies in the wrong partition and names its source
// in the log.
func (s *site) notePlace(source []byte) {
	s.metrics.misplaced.Inc()
	if count, due := s.misplaced.note(source, s.cfg.Now()); due {
		s.log.Warn("events lie in a partition where their key does not belong; a customer fed by producers that disagree has two half states: set the producer's partitioner to murmur2 (librdkafka: partitioner=murmur2_random)",
			"topic", schemas.TopicEvents, "source", string(source), "events", count)
	}
}
