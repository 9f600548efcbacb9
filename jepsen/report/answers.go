package report

import (
	"fmt"
	"slices"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// strip is how one node answered at one level, moment by moment: each moment is
// filled by the shares of what was answered, refused and left open. Moments
// without requests are empty.
type strip struct {
	Node, Level string
	Areas       []area
	Hit         []area // when faults were on this very node
	Share       string // answered, of all
	Says        string // the same for those who cannot see it
}

// strips are those of each node, level after level.
func strips(h *history.History, a axis) (all []strip) {
	counts := map[history.Level]map[string][][classes]float64{}
	for i := range h.Ops {
		o := &h.Ops[i]
		nodes := counts[o.Level]
		if nodes == nil {
			nodes = map[string][][classes]float64{}
			counts[o.Level] = nodes
		}
		if nodes[o.Node] == nil {
			nodes[o.Node] = make([][classes]float64, a.count)
		}
		nodes[o.Node][a.bucket(o.Invoke)][classOf(o)]++
	}
	for _, level := range levels {
		names := slices.Clone(h.Run.Nodes)
		for name := range counts[level] {
			if !slices.Contains(h.Run.Nodes, name) {
				names = append(names, name)
			}
		}
		slices.Sort(names[len(h.Run.Nodes):])
		for _, name := range names {
			if moments := counts[level][name]; moments != nil {
				all = append(all, newStrip(name, level, moments, h.Faults, a))
			}
		}
	}
	return all
}

func newStrip(node string, level history.Level, moments [][classes]float64, faults []history.Band, a axis) strip {
	s := strip{Node: node, Level: string(level)}
	if node == "" {
		s.Node = "any" // a client that finds its way by itself
	}
	var sum [classes]float64
	below := make([]float64, len(moments))
	for c := range classes {
		var d path
		for b, counts := range moments {
			total := counts[answered] + counts[refused] + counts[unknown]
			if counts[c] == 0 {
				continue
			}
			sum[c] += counts[c]
			part := counts[c] / total * height
			d.rect(a.edge(b), height-below[b]-part, a.edge(b+1)-a.edge(b), part)
			below[b] += part
		}
		if !d.empty() {
			s.Areas = append(s.Areas, area{c.String(), d.String()})
		}
	}
	for _, f := range faults {
		if slices.Contains(f.Nodes, node) {
			var d path
			from, until := a.x(f.From), a.x(end(f, a))
			d.rect(from, 0, max(until-from, 1), height)
			s.Hit = append(s.Hit, area{family(f.Kind), d.String()})
		}
	}
	total := sum[answered] + sum[refused] + sum[unknown]
	s.Share = share(sum[answered], total)
	s.Says = fmt.Sprintf("%s, %s: %.0f requests, %s answered, %.0f refused, %.0f of unknown outcome", s.Node, level, total, s.Share, sum[refused], sum[unknown])
	return s
}

// share in percent, never rounded to all or to nothing.
func share(part, whole float64) string {
	switch p := part / whole * 100; {
	case part == whole:
		return "100 %"
	case part == 0:
		return "0 %"
	case p > 99.9:
		return "> 99.9 %"
	case p < 0.1:
		return "< 0.1 %"
	case p > 99 || p < 1:
		return fmt.Sprintf("%.1f %%", p)
	default:
		return fmt.Sprintf("%.0f %%", p)
	}
}
