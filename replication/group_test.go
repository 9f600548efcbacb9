package replication

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestElectWriteIsolateWriteHealCompare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		first := c.leader()
		if first.id != "n0" {
			t.Errorf("%s leads, not the preferred n0", first.id)
		}
		for i := range 20 {
			first.mustPut(fmt.Sprint("k", i), "1")
		}
		c.fabric.isolate(first.id)
		second := c.leader(c.others(first)...)
		for i := range 20 {
			second.mustPut(fmt.Sprint("k", i), "2")
		}
		c.fabric.heal()
		c.eventually("n0 hears from the others", func() bool { r, _ := first.group.Reachable(); return r == 3 })
		for _, n := range c.nodes {
			n.mustGet("k7", "2")
		}
		for _, n := range c.nodes {
			if n.machine.String() != second.machine.String() {
				t.Errorf("%s has %v, %s has %v", n.id, n.machine, second.id, second.machine)
			}
		}
	})
}

func TestSingleVoterNeedsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		defer c.close()
		n := c.leader()
		n.mustPut("k", "v")
		start := time.Now()
		n.mustGet("k", "v")
		if d := time.Since(start); d > 0 {
			t.Errorf("a read took %v of virtual time", d)
		}
	})
}
