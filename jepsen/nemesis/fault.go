package nemesis

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen/cluster"
	"github.com/capstan-kv/capstan/jepsen/lab"
)

const (
	// askAgain is how often it is looked whether something that is waited for is so.
	askAgain = 50 * time.Millisecond
	// leaderTimeout bounds one question who leads.
	leaderTimeout = 2 * time.Second
	// stopPatience bounds how long a node may take to end in order.
	stopPatience = 15 * time.Second
	// obeyPatience bounds how long a process may take to follow a control.
	obeyPatience = 3 * time.Second
	// endPatience is how long a node whose clock or disk was bent may still end by
	// itself for that, at most.
	endPatience = 5 * time.Second
)

// fault is one event that is carried out.
type fault struct {
	*run
	Effect
	until time.Time
	told  bool // that it is in force
}

// carryOut does what the event says, until it is over or ctx ends, and has all as it
// was. The error is of the target.
func (f *fault) carryOut(ctx context.Context) error {
	k, err := Find(f.Event.Kind)
	if err != nil {
		return err
	}
	do := map[act]func(context.Context) error{
		shape: f.shape, kill: f.kill, restart: f.restart, pause: f.pause, bend: f.bend, wipe: f.wipe,
	}[k.act]
	err = do(ctx)
	f.inForce() // one that never was has its begin too
	f.Ended = time.Now()
	f.tell(End, f.Effect)
	return err
}

// inForce tells that the event is.
func (f *fault) inForce() {
	if !f.told {
		f.told = true
		f.tell(Begin, f.snapshot())
	}
}

// snapshot is the effect so far, for others to keep.
func (f *fault) snapshot() Effect {
	e := f.Effect
	e.Nodes, e.Links, e.Notes = slices.Clone(e.Nodes), slices.Clone(e.Links), slices.Clone(e.Notes)
	return e
}

// turns does and undoes, once or as often as the event says. Undo comes after each
// do, also after one that failed or found nothing to do.
func (f *fault) turns(ctx context.Context, do, undo func() error) error {
	for {
		err := do()
		if err == nil {
			f.inForce()
			end := f.until
			if on := time.Now().Add(f.Event.On); f.Event.On > 0 && on.Before(end) {
				end = on
			}
			until(ctx, end)
		}
		if err = errors.Join(err, undo()); err != nil {
			return err
		}
		next := time.Now().Add(f.Event.Off)
		if f.Event.On == 0 || !next.Before(f.until) || !until(ctx, next) {
			return nil
		}
	}
}

// leader finds who leads, as long as there is time for the event to be felt.
func (f *fault) leader(ctx context.Context) string {
	last := time.Now().Add(time.Until(f.until) / 2)
	var failed error
	for {
		one, cancel := context.WithTimeout(ctx, leaderTimeout)
		name, err := f.Leader(one, *f.Event.Leader)
		cancel()
		if err == nil && f.machines[name] != nil {
			return name
		}
		failed = err
		if next := time.Now().Add(askAgain); next.After(last) || !until(ctx, next) {
			break
		}
	}
	f.note("nobody was found to lead partition %d", *f.Event.Leader)
	if failed != nil {
		f.note("%v", failed)
	}
	return ""
}

// nodes are those to hit: the event's, or whoever leads now. None, if nobody does.
func (f *fault) nodes(ctx context.Context) []string {
	hit := f.Event.Nodes
	if f.Event.Leader != nil {
		name := f.leader(ctx)
		if name == "" {
			return nil
		}
		hit = []string{name}
	}
	f.hits(hit...)
	return hit
}

// links are those to touch.
func (f *fault) links(ctx context.Context) []lab.Link {
	links := f.Event.Links
	if f.Event.Leader != nil {
		name := f.leader(ctx)
		if name == "" {
			return nil
		}
		others := slices.DeleteFunc(f.Target.nodes(), func(n string) bool { return n == name })
		links = nil
		if f.Event.Way != Outward {
			links = append(links, oneWay(others, []string{name})...)
		}
		if f.Event.Way != Inward {
			links = append(links, oneWay([]string{name}, others)...)
		}
		slices.SortFunc(links, compare)
	}
	f.Links = links
	if f.Event.Rule.Cut {
		if f.Apart = apart(f.Target.nodes(), links); len(f.Apart) > 1 {
			f.hits(f.Apart[0]...)
		}
	}
	return links
}

func (f *fault) shape(ctx context.Context) error {
	links := f.links(ctx)
	if len(links) == 0 {
		return nil
	}
	if f.wires == nil {
		return f.turns(ctx, func() error {
			f.Severed = max(f.Severed, f.severs.add(ctx, links, 1))
			return nil
		}, func() error {
			f.severs.add(context.WithoutCancel(ctx), links, -1)
			return nil
		})
	}
	var before lab.Traffic
	rule := f.Event.Rule
	return f.turns(ctx, func() (err error) {
		if before, err = f.wires.carried(links); err != nil {
			return err
		}
		return f.wires.follow(links, &rule)
	}, func() error {
		after, err := f.wires.carried(links)
		if err == nil {
			f.carried(before, after)
		}
		return errors.Join(err, f.wires.leave(links, &rule))
	})
}

// each does something to several nodes at once.
func (f *fault) each(nodes []string, do func(*machine) (bool, error)) (done int, failed error) {
	type outcome struct {
		done bool
		err  error
	}
	outcomes := make(chan outcome, len(nodes))
	for _, n := range nodes {
		go func() {
			done, err := do(f.machines[n])
			outcomes <- outcome{done, err}
		}()
	}
	for range nodes {
		o := <-outcomes
		if o.done {
			done++
		}
		failed = errors.Join(failed, o.err)
	}
	return done, failed
}

func (f *fault) kill(ctx context.Context) error {
	var hit []string
	return f.turns(ctx, func() (err error) {
		hit = f.nodes(ctx)
		forgetful, err := f.each(hit, func(m *machine) (bool, error) { return m.Forgets() })
		if err != nil {
			return err
		}
		f.Forgetful = forgetful
		f.Killed, err = f.each(hit, (*machine).down)
		return err
	}, func() error {
		started, err := f.each(hit, (*machine).up)
		f.Started = started
		return err
	})
}

func (f *fault) pause(ctx context.Context) error {
	var hit []string
	return f.turns(ctx, func() (err error) {
		hit = f.nodes(ctx)
		stand, err := f.each(hit, (*machine).pause)
		f.Paused += stand
		return err
	}, func() error {
		_, err := f.each(hit, func(m *machine) (bool, error) { return false, m.resume() })
		return err
	})
}

func (f *fault) restart(ctx context.Context) error {
	f.inForce()
	for i, n := range f.Event.Nodes {
		if !until(ctx, time.Now()) {
			break
		}
		if i > 0 && !time.Now().Before(f.until) {
			f.note("no time was left for %d of %d nodes", len(f.Event.Nodes)-i, len(f.Event.Nodes))
			return nil
		}
		f.hits(n)
		m := f.machines[n]
		patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
		done, complaint, err := m.restart(patient)
		cancel()
		if err != nil {
			return err
		}
		if complaint != "" {
			f.note("%s", complaint)
		}
		if done {
			f.Restarted++
			f.ready(ctx, m)
		}
	}
	return nil
}

// ready waits until a node is, while the event lasts.
func (f *fault) ready(ctx context.Context, m *machine) {
	waiting, cancel := context.WithDeadline(ctx, f.until)
	defer cancel()
	if err := m.AwaitReady(waiting); err != nil && ctx.Err() == nil {
		f.note("%s was not ready in time", m.name)
	}
}

func (f *fault) wipe(ctx context.Context) error {
	hit := f.nodes(ctx)
	killed, err := f.each(hit, (*machine).down)
	f.Killed = killed
	if err == nil {
		f.inForce()
		until(ctx, f.until)
		f.Wiped, err = f.each(hit, func(m *machine) (bool, error) {
			err := m.wipe()
			return err == nil, err
		})
	}
	started, failed := f.each(hit, (*machine).up)
	f.Started = started
	return errors.Join(err, failed)
}

func (f *fault) bend(ctx context.Context) error {
	control, hit := f.Event.Bend, f.nodes(ctx)
	before, err := f.bent(hit)
	if err != nil {
		return err
	}
	_, err = f.each(hit, func(m *machine) (bool, error) { return true, m.bend(&control) })
	if err == nil {
		f.Obeyed, err = f.each(hit, func(m *machine) (bool, error) { return m.obeys(ctx, f.until) })
	}
	if err == nil {
		f.inForce()
		until(ctx, f.until)
	}
	after, failed := f.bent(hit)
	if failed == nil {
		f.Bent = after.Since(before)
	}
	alone := context.WithoutCancel(ctx)
	started, healed := f.each(hit, func(m *machine) (bool, error) { return m.straighten(alone, &control) })
	f.Started = started
	return errors.Join(err, failed, healed)
}

// bent is what bending did to nodes so far, all together.
func (f *fault) bent(nodes []string) (sum cluster.Counters, failed error) {
	for _, n := range nodes {
		c, err := f.machines[n].Bent()
		failed = errors.Join(failed, err)
		sum = sum.Plus(c)
	}
	return sum, failed
}
