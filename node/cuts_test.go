package node

import (
	"testing"
	"testing/synctest"
)

func TestClusterForms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 1)
		defer w.close()
		w.formed()
		for _, m := range w.machines {
			m.mustPut("at "+m.name, m.name)
		}
		for _, m := range w.machines {
			for _, other := range w.machines {
				other.mustGet("at "+m.name, m.name)
			}
		}
		w.compareReplicas(w.machines...)
	})
}
