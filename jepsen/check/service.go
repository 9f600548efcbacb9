package check

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// For how long linearizable service was away where there was a quorum.

// interruption of service in one epoch, by partition and node.
func (l *ledger) interruption(e *epoch, keys []serviceKey) Interruption {
	i := Interruption{Fault: -1, What: e.String(), At: e.from}
	if e.began != nil {
		i.Fault = e.began.Number
	}
	again := map[int]time.Duration{} // by partition: until somebody was served
	interrupted := map[int]bool{}
	slowest := map[int]slow{}
	for _, k := range keys {
		ops := l.service[k]
		first := slices.IndexFunc(ops, served)
		if first < 0 {
			first = len(ops)
		} else if after, was := again[k.partition]; !was || ops[first].Return-e.from < after {
			again[k.partition] = ops[first].Return - e.from
		}
		interrupted[k.partition] = interrupted[k.partition] || first > 0
		if first > 0 {
			last := ops[first-1]
			i.Refused = max(i.Refused, last.Invoke-e.from)
			if s := (slow{last.Invoke - e.from, e, k, []*history.Op{ops[0], last}}); s.away >= slowest[k.partition].away {
				s.ops = append(s.ops, ops[first:min(first+1, len(ops))]...)
				slowest[k.partition] = s
			}
		}
		l.judgeService(e, k, ops)
	}
	var times []time.Duration
	for partition, was := range interrupted {
		i.Partitions++
		if !was {
			continue
		}
		i.Interrupted++
		if after, served := again[partition]; served {
			times = append(times, after)
		} else {
			i.Open++
		}
	}
	if e.began != nil {
		for _, partition := range slices.Sorted(maps.Keys(slowest)) {
			l.slow = append(l.slow, slowest[partition])
		}
	}
	slices.Sort(times)
	i.P50, i.Max = quantile(times, 50), quantile(times, 100)
	return i
}

// slow is the longest that a partition was refused at a node with a quorum once a fault
// had begun.
type slow struct {
	away time.Duration
	at   *epoch
	key  serviceKey
	ops  []*history.Op
}

const (
	// A busy machine may have one interruption last longer than the bound, not a fifth
	// of them, and at least three.
	slowShare = 5
	slowLeast = 3
)

// judgeAll holds the interruptions of the whole run against the bound, without any
// allowance.
func (l *ledger) judgeAll() {
	late := 0
	var worst slow
	for _, s := range l.slow {
		if s.away > l.bound {
			late++
		}
		if s.away > worst.away {
			worst = s
		}
	}
	if late < slowLeast || late*slowShare <= len(l.slow) {
		return
	}
	l.find("", fmt.Sprintf("%d of %d times that a fault interrupted a partition it was refused for longer than %v by a node with a quorum of it within reach: more than a busy machine explains; at worst partition %d at %s, %v after %v",
		late, len(l.slow), l.bound, worst.key.partition, worst.key.node, rounded(worst.away), worst.at), worst.ops...)
}

// judgeService holds every stretch of refusals against the bound: the one with which an
// epoch begins from that beginning on, later ones from their first refusal. It lasted
// at least until the last request began that was refused.
func (l *ledger) judgeService(e *epoch, k serviceKey, ops []*history.Op) {
	since, first := e.from, -1
	for n, o := range ops {
		if served(o) {
			since, first = -1, -1
			continue
		}
		if first < 0 {
			first = n
		}
		if since < 0 {
			since = o.Invoke
		}
		ends := n+1 == len(ops) || served(ops[n+1])
		if away := o.Invoke - since; ends && away > l.bound+serviceAllowance {
			shown := []*history.Op{ops[first], o}
			if n+1 < len(ops) {
				shown = append(shown, ops[n+1])
			}
			l.find(k.node, fmt.Sprintf("partition %d was not served at %s for at least %v, with a quorum of it within reach, since %v: %v are allowed; last %s",
				k.partition, k.node, rounded(away), e, l.bound, failure(o)), shown...)
		}
	}
}
