package client

import (
	"testing"
	"testing/synctest"
	"time"
)

// A node that cannot be reached is asked last for longer each time, up to a
// bound, and like any other once it has answered.
func TestAvoidanceGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n node
		refused := &Error{unsent: true}
		for _, want := range []time.Duration{avoidFor, 2 * avoidFor, 4 * avoidFor} {
			n.note(refused)
			n.note(refused) // of another call at the same time
			time.Sleep(want - 1)
			if !n.avoid() {
				t.Fatalf("not avoided for %s", want)
			}
			time.Sleep(time.Nanosecond)
			if n.avoid() {
				t.Fatalf("avoided for more than %s", want)
			}
		}
		for range 40 {
			n.note(refused)
			time.Sleep(avoidMost)
			if n.avoid() {
				t.Fatalf("avoided for more than %s", avoidMost)
			}
		}
		n.note(refused)
		n.worked()
		if n.avoid() {
			t.Error("avoided although it has answered")
		}
		n.note(refused)
		time.Sleep(avoidFor)
		if n.avoid() {
			t.Error("its failures were not forgotten")
		}
	})
}
