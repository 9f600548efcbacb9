package nemesis

import (
	"context"
	"errors"
	"time"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

// Network is what Run disturbs; a lab of kind Namespaces is one.
type Network interface {
	Shape(lab.Link, lab.Rule) error
	Traffic(lab.Link) (lab.Traffic, error)
}

// Effect is what came of an event.
type Effect struct {
	Event      Event
	Began      time.Time
	Ended      time.Time
	Cut        uint64 // frames
	Lost       uint64
	Duplicated uint64
	Sent       uint64 // all that the rule was applied to
}

// Felt reports whether the fault did anything to anybody.
func (e Effect) Felt() bool {
	touched := e.Cut + e.Lost + e.Duplicated
	if r := e.Event.Rule; r.Delay > 0 || r.Jitter > 0 || r.Rate > 0 {
		touched += e.Sent
	}
	return touched > 0
}

// Run carries out a schedule, from now on, and returns the effects of those events
// that were begun. When it returns, also early by ctx or with an error, the links
// that it touched are good.
func Run(ctx context.Context, network Network, s Schedule) ([]Effect, error) {
	began := time.Now()
	var effects []Effect
	for _, e := range s {
		if !until(ctx, began.Add(e.At)) {
			return effects, ctx.Err()
		}
		effect, err := disturb(ctx, network, e, began.Add(e.At+e.For))
		effects = append(effects, effect)
		if err := errors.Join(err, ctx.Err()); err != nil {
			return effects, err
		}
	}
	return effects, nil
}

func disturb(ctx context.Context, network Network, e Event, end time.Time) (Effect, error) {
	effect := Effect{Event: e, Began: time.Now()}
	before, failed := total(network, e.Links)
	for _, l := range e.Links {
		failed = errors.Join(failed, network.Shape(l, e.Rule))
	}
	if failed == nil {
		until(ctx, end)
	}
	after, err := total(network, e.Links)
	failed = errors.Join(failed, err)
	for _, l := range e.Links {
		failed = errors.Join(failed, network.Shape(l, lab.Rule{}))
	}
	effect.Ended = time.Now()
	effect.Cut, effect.Lost = after.Cut-before.Cut, after.Lost-before.Lost
	effect.Duplicated, effect.Sent = after.Duplicated-before.Duplicated, after.Sent-before.Sent
	return effect, failed
}

func total(network Network, links []lab.Link) (sum lab.Traffic, failed error) {
	for _, l := range links {
		t, err := network.Traffic(l)
		failed = errors.Join(failed, err)
		sum.Cut, sum.Lost = sum.Cut+t.Cut, sum.Lost+t.Lost
		sum.Duplicated, sum.Sent = sum.Duplicated+t.Duplicated, sum.Sent+t.Sent
	}
	return sum, failed
}

// until waits for a moment; false: ctx ended first.
func until(ctx context.Context, moment time.Time) bool {
	timer := time.NewTimer(time.Until(moment))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
