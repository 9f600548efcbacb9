package nemesis

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// run is one schedule that is carried out.
type run struct {
	Target
	wires    *wires  // nil: there are no links
	severs   *severs // nil: there are links, or no cuts at all
	machines map[string]*machine

	telling sync.Mutex
}

// Run carries out a schedule, from now on, and returns the effects of those events
// that were begun, in their order. Events may overlap: see Merge; a node is down
// while any wants it down, and stands while any wants that.
//
// The first error ends all events. So does the end of ctx, which is no error. However
// Run ends, it first has all as it was: links are good, nodes were started and run,
// clocks and disks are true. Nodes may not be ready yet. What is not so is an error.
func Run(ctx context.Context, target Target, s Schedule) (effects []Effect, err error) {
	if err := target.check(s); err != nil {
		return nil, err
	}
	r := &run{Target: target, machines: map[string]*machine{}}
	var reminders sync.WaitGroup
	reminding, stop := context.WithCancel(context.WithoutCancel(ctx))
	if target.Network != nil {
		r.wires = newWires(target.Network)
	} else if target.Cut != nil {
		r.severs = newSevers(target.nodes(), target.Cut)
		reminders.Go(func() { r.severs.remind(reminding) })
	}
	for name, m := range target.Machines {
		r.machines[name] = &machine{Machine: m, name: name, started: r.started}
	}
	effects, err = r.events(ctx, s)
	stop()
	reminders.Wait()
	return effects, errors.Join(err, r.heal(context.WithoutCancel(ctx)))
}

func (r *run) started(node string) {
	if r.severs != nil {
		r.severs.forgot(node)
	}
}

// events begins each event when it is due and waits until all are over.
func (r *run) events(ctx context.Context, s Schedule) ([]Effect, error) {
	began := time.Now()
	ctx, end := context.WithCancel(ctx)
	defer end()
	var mu sync.Mutex
	var failed error
	all := make([]*Effect, 0, len(s))
	var wait sync.WaitGroup
	for i, e := range s {
		if !until(ctx, began.Add(e.At)) {
			break
		}
		f := &fault{run: r, Effect: Effect{Number: i, Event: e, Began: time.Now()}, until: began.Add(e.end())}
		all = append(all, &f.Effect)
		wait.Go(func() {
			if err := f.carryOut(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = errors.Join(failed, fmt.Errorf("event %d, %s: %w", i+1, e.Kind, err))
				end()
			}
		})
	}
	wait.Wait()
	var effects []Effect
	for _, e := range all {
		effects = append(effects, *e)
	}
	return effects, failed
}

// heal has all good again that an error left otherwise.
func (r *run) heal(ctx context.Context) (failed error) {
	for _, m := range r.machines {
		failed = errors.Join(failed, m.heal())
	}
	if r.wires != nil {
		failed = errors.Join(failed, r.wires.heal())
	}
	if r.severs != nil {
		failed = errors.Join(failed, r.severs.healed(ctx))
	}
	return failed
}

// tell tells of an event.
func (r *run) tell(p Phase, e Effect) {
	if r.Events == nil {
		return
	}
	r.telling.Lock()
	defer r.telling.Unlock()
	r.Events(p, e)
}

// until waits for a moment; false: ctx ended first.
func until(ctx context.Context, moment time.Time) bool {
	if ctx.Err() != nil {
		return false
	}
	timer := time.NewTimer(time.Until(moment))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
