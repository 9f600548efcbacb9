package node

import (
	"sync"
	"time"
)

const (
	// seldomEvery is how often the log repeats what keeps happening for one cause.
	seldomEvery = time.Minute
	// seldomCauses bounds the causes remembered; beyond it all are forgotten, and
	// each is logged once more.
	seldomCauses = 256
)

// seldom keeps a warning that repeats from filling the log: once per cause and
// minute. The zero value is ready. Safe for concurrent use.
type seldom struct {
	mu     sync.Mutex
	causes map[string]*seldomCause
}

type seldomCause struct {
	logged time.Time
	silent int // times since then
}

// due reports whether to log the cause now, and how often it was not logged since
// it was the last time.
func (s *seldom) due(cause string) (silent int, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	c := s.causes[cause]
	switch {
	case c == nil:
		if s.causes == nil || len(s.causes) >= seldomCauses {
			s.causes = map[string]*seldomCause{}
		}
		s.causes[cause] = &seldomCause{logged: now}
		return 0, true
	case now.Sub(c.logged) < seldomEvery:
		c.silent++
		return 0, false
	}
	silent = c.silent
	c.logged, c.silent = now, 0
	return silent, true
}
