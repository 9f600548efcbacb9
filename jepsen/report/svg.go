package report

import (
	"strconv"
	"strings"
)

// width of every drawing, in its own units. The page stretches it.
const width = 1000.0

// path is the d of an SVG path, put together piece by piece.
type path struct{ b strings.Builder }

func (p *path) write(command byte, numbers ...float64) {
	p.b.WriteByte(command)
	for i, n := range numbers {
		if i > 0 {
			p.b.WriteByte(' ')
		}
		p.b.WriteString(short(n))
	}
}

func (p *path) empty() bool { return p.b.Len() == 0 }

func (p *path) String() string { return p.b.String() }

// line goes on to a point, or begins there.
func (p *path) line(x, y float64, begin bool) {
	if begin {
		p.write('M', x, y)
		return
	}
	p.write('L', x, y)
}

// dot is a line of no length: with round ends it is drawn as a dot, which stays
// round however the drawing is stretched.
func (p *path) dot(x, y float64) {
	p.write('M', x, y)
	p.b.WriteString("h0")
}

func (p *path) rect(x, y, w, h float64) {
	p.write('M', x, y)
	p.write('h', w)
	p.write('v', h)
	p.write('h', -w)
	p.b.WriteByte('z')
}

// short has no more digits than can be seen.
func short(n float64) string {
	s := strconv.FormatFloat(n, 'f', 1, 64)
	s = strings.TrimSuffix(s, ".0")
	if s == "-0" {
		return "0"
	}
	return s
}
