package bend

import (
	"cmp"
	"slices"
)

// extent is a run of bytes of a file.
type extent struct {
	at   int64
	data []byte
}

func (x extent) end() int64 { return x.at + int64(len(x.data)) }

// extentBytes bounds an extent that grows by appending, so that it is not
// copied too often.
const extentBytes = 1 << 20

// extents are in order and do not overlap. The zero value is empty.
type extents []extent

func (e extents) bytes() (n int64) {
	for _, x := range e {
		n += int64(len(x.data))
	}
	return n
}

// around are the extents that overlap a range.
func (e extents) around(at, end int64) (from, to int) {
	from, _ = slices.BinarySearchFunc(e, at, func(x extent, at int64) int {
		if x.end() <= at {
			return -1
		}
		return 1
	})
	to, _ = slices.BinarySearchFunc(e, end, func(x extent, end int64) int { return cmp.Compare(x.at, end) })
	return from, max(from, to)
}

// put writes a copy of p over what is there.
func (e extents) put(at int64, p []byte) extents {
	if len(p) == 0 {
		return e
	}
	// The last one shares its array with no other.
	if n := len(e) - 1; n >= 0 && e[n].end() == at && len(e[n].data)+len(p) <= extentBytes {
		e[n].data = append(e[n].data, p...)
		return e
	}
	e = e.cut(at, at+int64(len(p)))
	i, _ := e.around(at, at)
	return slices.Insert(e, i, extent{at, slices.Clone(p)})
}

// cut takes a range out.
func (e extents) cut(at, end int64) extents {
	from, to := e.around(at, end)
	if from == to {
		return e
	}
	var rest extents
	if first := e[from]; first.at < at {
		rest = append(rest, extent{first.at, first.data[:at-first.at]})
	}
	if last := e[to-1]; last.end() > end {
		rest = append(rest, extent{end, last.data[end-last.at:]})
	}
	return slices.Replace(e, from, to, rest...)
}

// over copies what the extents have of a range onto p, which begins at at.
func (e extents) over(at int64, p []byte) {
	from, to := e.around(at, at+int64(len(p)))
	for _, x := range e[from:to] {
		if x.at < at {
			copy(p, x.data[at-x.at:])
		} else {
			copy(p[x.at-at:], x.data)
		}
	}
}
