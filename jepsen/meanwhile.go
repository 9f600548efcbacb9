package jepsen

import (
	"context"
	"sync"
)

// meanwhile has others at work for as long as the first is, and gives their failures
// once all have ended: when clients stop early, since nothing can be recorded any
// more, nobody is left who is to be disturbed.
func meanwhile(ctx context.Context, first func(context.Context) error, others ...func(context.Context) error) (ofOthers []error, failed error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ofOthers = make([]error, len(others))
	var running sync.WaitGroup
	for i, other := range others {
		running.Go(func() { ofOthers[i] = other(ctx) })
	}
	failed = first(ctx)
	stop()
	running.Wait()
	return ofOthers, failed
}
