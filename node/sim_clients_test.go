package node

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/jepsen/contract"
	"github.com/capstan-kv/capstan/replication"
)

// simClient does one operation after the other, each at a node drawn anew.
type simClient struct {
	*simulation
	rng      *mathrand.Rand
	process  int
	number   int // of the client
	writes   int
	sessions int
	talk     *talk  // nil: without a session
	session  string // its name in the history
	seen     map[string]sighting
	receipts []string
}

// sighting is the last committed value that a client saw at a key.
type sighting struct {
	value   string
	version *capstanv1.Version
}

func (s *simulation) newClient(rng *mathrand.Rand) *simClient {
	c := &simClient{simulation: s, rng: rng, seen: map[string]sighting{}}
	c.process = s.newProcess()
	c.number = c.process
	return c
}

func (s *simulation) newProcess() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.processes++
	return s.processes
}

// once does one random operation.
func (c *simClient) once() {
	switch {
	case c.rng.IntN(25) > 0:
	case c.rng.IntN(3) == 0:
		c.talk, c.session = nil, ""
	default:
		c.sessions++
		c.talk, c.session = &talk{}, fmt.Sprintf("s%d.%d", c.number, c.sessions)
	}
	p := c.machines[c.rng.IntN(len(c.machines))].running()
	if p == nil {
		return
	}
	key := simKey(c.rng.IntN(c.weather.keys))
	levels := c.weather.levels
	switch n := c.rng.IntN(levels[0] + levels[1] + levels[2]); {
	case n < levels[1]:
		within := time.Duration(1+c.rng.IntN(100)) * []time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond}[c.rng.IntN(3)]
		c.read(p, key, bounded, 1, within, c.rng.IntN(6) == 0)
	case n < levels[0]+levels[1]:
		if c.rng.IntN(5) < 2 {
			c.read(p, key, linearizable, 0, 0, c.rng.IntN(6) == 0)
		} else {
			c.write(p, key, linearizable, 0)
		}
	case c.rng.IntN(20) == 0 && len(c.receipts) > 0:
		c.ask(p, c.receipts[len(c.receipts)-1-c.rng.IntN(min(5, len(c.receipts)))])
	case c.rng.IntN(5) < 2:
		c.read(p, key, eventual, uint32(max(1, c.rng.IntN(6)-2)), 0, c.rng.IntN(6) == 0)
	default:
		c.write(p, key, eventual, uint32(max(0, c.rng.IntN(6)-2)))
	}
}

func (c *simClient) deadline() (context.Context, context.CancelFunc) {
	d := []time.Duration{300 * time.Millisecond, time.Second, 2 * time.Second, requestTime}[c.rng.IntN(4)]
	return context.WithTimeout(context.Background(), d)
}

func (c *simClient) begin(p *process, key string, level capstanv1.Consistency, kind contract.Kind) contract.Op {
	levels := map[capstanv1.Consistency]contract.Level{linearizable: contract.Linearizable, bounded: contract.Bounded, eventual: contract.Eventual}
	return contract.Op{Process: c.process, Node: string(p.id), Level: levels[level], Kind: kind, Key: key, Session: c.session, Invoke: c.now()}
}

// finish keeps the operation, as the client may tell how it ended.
func (c *simClient) finish(p *process, o contract.Op, token string, err error) contract.Op {
	o.Return = c.now()
	var e *replication.Error
	switch {
	case p.dead.Load(): // nobody heard the answer
		o = contract.Op{
			Process: o.Process, Node: o.Node, Level: o.Level, Kind: o.Kind, Key: o.Key, Session: o.Session, Condition: o.Condition, Expect: o.Expect,
			Invoke: o.Invoke, Return: o.Return, Outcome: contract.Unknown,
			Value: map[bool]string{true: o.Value}[o.Kind == contract.Put],
		}
	case err == nil:
		o.Outcome = contract.OK
		c.talk.heard(token, nil)
	case errors.As(err, &e):
		c.talk.heard("", err)
		if o.Receipt = e.Receipt; o.Receipt != "" {
			if r, err := p.router.sessions.receipt(o.Receipt); err == nil {
				o.Base, o.Version = r.Base, contract.Version{Timestamp: uint64(r.Timestamp), Node: string(r.Dot.Node)}
			}
		}
		switch {
		case e.Reason == replication.ConditionFailed:
			o.Outcome = contract.Mismatch
		case e.Outcome == replication.NotApplied:
			o.Outcome = contract.Failed
		default:
			o.Outcome = contract.Unknown
		}
	default:
		o.Outcome = contract.Unknown
	}
	if o.Outcome == contract.Unknown {
		c.process = c.newProcess()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ops = append(c.ops, o)
	if o.Receipt != "" {
		c.simulation.receipts = append(c.simulation.receipts, o.Receipt)
		c.receipts = append(c.receipts, o.Receipt)
	}
	return o
}

// read gets the key, or scans for it.
func (c *simClient) read(p *process, key string, level capstanv1.Consistency, replicas uint32, within time.Duration, scan bool) contract.Op {
	ctx, cancel := c.deadline()
	defer cancel()
	o := c.begin(p, key, level, contract.Get)
	o.MaxStaleness = within
	var staleness *durationpb.Duration
	if within > 0 {
		staleness = durationpb.New(within)
	}
	var version *capstanv1.Version
	var freshness *capstanv1.Freshness
	var token string
	var err error
	if scan {
		var entries []*capstanv1.Entry
		var end *capstanv1.ScanEnd
		err = p.router.Scan(ctx, &capstanv1.ScanRequest{Prefix: []byte(key), Consistency: level, MaxStaleness: staleness, Session: c.talk.send()},
			func(r *capstanv1.ScanResponse) error {
				entries = append(entries, r.GetEntries()...)
				end = r.GetEnd()
				return nil
			})
		for _, e := range entries {
			if o.Found {
				c.t.Errorf("a scan gave %s twice, as %s and %s", key, o.Value, e.GetValue())
			}
			o.Found, o.Value, version = true, string(e.GetValue()), e.GetVersion()
		}
		freshness, token = end.GetFreshness(), end.GetSession()
		if o.Found && version.GetIndex() == 0 && !freshness.GetTentative() {
			c.t.Errorf("a scan gave a tentative version of %s, and says that all is committed", key)
		}
	} else {
		var r *capstanv1.GetResponse
		r, err = p.router.Get(ctx, &capstanv1.GetRequest{
			Key: []byte(key), Consistency: level, MaxStaleness: staleness, Replicas: replicas, Session: c.talk.send(),
		})
		o.Found, o.Value, version = r.GetFound(), string(r.GetValue()), r.GetVersion()
		freshness, token = r.GetFreshness(), r.GetSession()
	}
	o.Version, o.Staleness = versionIn(version), freshness.GetStaleness().AsDuration()
	o.Tentative = o.Found && freshness.GetTentative()
	if scan { // which speaks of all that it has seen
		o.Tentative = o.Found && version.GetIndex() == 0
	}
	o = c.finish(p, o, token, err)
	if o.Outcome == contract.OK && o.Found && !o.Tentative {
		c.seen[key] = sighting{o.Value, version}
	}
	return o
}

// write puts a new value or deletes, sometimes on a condition if that is possible.
func (c *simClient) write(p *process, key string, level capstanv1.Consistency, acks uint32) contract.Op {
	ctx, cancel := c.deadline()
	defer cancel()
	o := c.begin(p, key, level, contract.Put)
	var condition *capstanv1.Condition
	if level == linearizable && c.rng.IntN(4) == 0 {
		switch seen, ok := c.seen[key]; {
		case ok && c.rng.IntN(2) == 0:
			o.Condition, o.Expect = contract.IfValue, seen.value
			condition = &capstanv1.Condition{Test: &capstanv1.Condition_Version{Version: seen.version}}
		case c.rng.IntN(2) == 0:
			o.Condition, condition = contract.IfPresent, &capstanv1.Condition{Test: &capstanv1.Condition_Present{Present: true}}
		default:
			o.Condition, condition = contract.IfAbsent, &capstanv1.Condition{Test: &capstanv1.Condition_Absent{Absent: true}}
		}
	}
	if o.Condition != contract.IfAbsent && c.rng.IntN(5) == 0 {
		o.Kind = contract.Delete
		r, err := p.router.Delete(ctx, &capstanv1.DeleteRequest{
			Key: []byte(key), Consistency: level, Acks: acks, Session: c.talk.send(), Condition: condition,
		})
		o.Version, o.Receipt, o.Base = versionIn(r.GetVersion()), r.GetReceipt(), r.GetBase()
		return c.finish(p, o, r.GetSession(), err)
	}
	c.writes++
	o.Value = fmt.Sprintf("c%d.%d", c.number, c.writes)
	r, err := p.router.Put(ctx, &capstanv1.PutRequest{
		Key: []byte(key), Value: []byte(o.Value), Consistency: level, Acks: acks, Session: c.talk.send(), Condition: condition,
	})
	o.Version, o.Receipt, o.Base = versionIn(r.GetVersion()), r.GetReceipt(), r.GetBase()
	o = c.finish(p, o, r.GetSession(), err)
	if o.Outcome == contract.OK && level == linearizable {
		c.seen[key] = sighting{o.Value, r.GetVersion()}
	}
	return o
}

// ask waits a while for the fate of a write, which is final once it is known,
// and is part of the session's past.
func (c *simClient) ask(p *process, receipt string) {
	ctx, cancel := c.deadline()
	defer cancel()
	r, err := p.router.AwaitWrite(ctx, &capstanv1.AwaitWriteRequest{
		Receipt: receipt, Wait: durationpb.New(time.Duration(c.rng.IntN(1000)) * time.Millisecond),
	})
	if err != nil || p.dead.Load() || r.GetFate() == capstanv1.Fate_FATE_PENDING {
		return
	}
	if c.talk != nil && r.GetSession() != "" && c.talk.token != "" && !strings.Contains(c.talk.token, ".") {
		c.talk.token += "." + r.GetSession()
	}
	now := fateIn(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	if before, ok := c.told[receipt]; ok && before != now {
		c.t.Errorf("a client was told %v, then %v", before, now)
	}
	c.told[receipt] = now
}
