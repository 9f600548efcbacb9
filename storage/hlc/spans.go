package hlc

import "slices"

// maxSpans bounds the memory of timestamps given out ahead of the clock: 256
// separate futures of 16 bytes. One fast node makes one or two of them, since
// consecutive timestamps share a span.
const maxSpans = 256

// spans is a set of timestamps as sorted runs with a gap between any two.
type spans []span

type span struct{ low, high Timestamp } // inclusive

// take adds the lowest timestamp at or above t that is not in the set yet.
func (s *spans) take(t Timestamp) Timestamp {
	i := s.search(t)
	if i < len(*s) && (*s)[i].low <= t {
		t = (*s)[i].high.next()
	}
	s.add(t)
	return t
}

// skip is the lowest timestamp at or above t that is not in the set.
func (s *spans) skip(t Timestamp) Timestamp {
	if i := s.search(t); i < len(*s) && (*s)[i].low <= t {
		return (*s)[i].high.next()
	}
	return t
}

// dropBelow forgets what the clock has passed.
func (s *spans) dropBelow(t Timestamp) {
	if i := s.search(t); i > 0 {
		*s = slices.Delete(*s, 0, i)
	}
}

// search is the index of the first run that ends at or above t.
func (s *spans) search(t Timestamp) int {
	i, _ := slices.BinarySearchFunc(*s, t, func(e span, t Timestamp) int {
		if e.high < t {
			return -1
		}
		return 1
	})
	return i
}

// add puts t, which is not in the set, where it belongs.
func (s *spans) add(t Timestamp) {
	i := s.search(t)
	if i < len(*s) && (*s)[i].low <= t {
		return // only Max can be taken twice
	}
	joinsLeft := i > 0 && (*s)[i-1].high == t-1
	joinsRight := i < len(*s) && (*s)[i].low-1 == t
	switch {
	case joinsLeft && joinsRight:
		(*s)[i-1].high = (*s)[i].high
		*s = slices.Delete(*s, i, i+1)
	case joinsLeft:
		(*s)[i-1].high = t
	case joinsRight:
		(*s)[i].low = t
	default:
		*s = slices.Insert(*s, i, span{t, t})
		if len(*s) > maxSpans {
			*s = slices.Delete(*s, 0, 1)
		}
	}
}
