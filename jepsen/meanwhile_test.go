package jepsen

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Once clients have stopped, for whatever reason, nobody goes on for hours.
func TestMeanwhileEndsWithTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		full, broken := errors.New("no space"), errors.New("no link")
		began := time.Now()
		others, failed := meanwhile(ctx, func(context.Context) error {
			time.Sleep(time.Minute)
			return full
		}, func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		}, func(context.Context) error { return broken })
		if took := time.Since(began); took != time.Minute {
			t.Errorf("it took %v", took)
		}
		if !errors.Is(failed, full) || len(others) != 2 || others[0] != nil || !errors.Is(others[1], broken) {
			t.Errorf("%v, %v", failed, others)
		}
	})
}
