package jepsen

import (
	"context"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

const (
	// stallCheck is how often the process looks whether it gets to run.
	stallCheck = 50 * time.Millisecond
	// stallLate is how late it has to be for a stall: half of what the ledger of
	// availability allows for.
	stallLate = 500 * time.Millisecond
)

// watchStalls records when this process did not get to run: clients and, in a lab of
// namespaces, the network stood still then. It ends with ctx; its error is the
// record's.
func (r *running) watchStalls(ctx context.Context) error {
	before := time.Now()
	for sleepUntil(ctx, before.Add(stallCheck)) {
		now := time.Now()
		if late := now.Sub(before) - stallCheck; late >= stallLate {
			if err := r.write(history.Event{Type: history.TypeStall, Stall: &history.Stall{For: late}}); err != nil {
				return err
			}
		}
		before = now
	}
	return nil
}
