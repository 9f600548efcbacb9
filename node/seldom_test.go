package node

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

func TestSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s seldom
		logged, told := 0, 0
		for range 150 { // seconds
			if silent, due := s.due("a"); due {
				logged, told = logged+1, told+silent
			}
			time.Sleep(time.Second)
		}
		if logged != 3 || told != 118 {
			t.Errorf("logged %d times, with %d told of", logged, told)
		}
		if _, due := s.due("b"); !due {
			t.Error("another cause was silent")
		}
		for i := range 10 * seldomCauses {
			s.due(fmt.Sprint(i))
		}
		if len(s.causes) > seldomCauses {
			t.Errorf("%d causes are remembered", len(s.causes))
		}
	})
}

// The log numbers partitions as everything else does.
func TestLoggedPartition(t *testing.T) {
	for of, want := range map[storage.Replica]string{
		{Group: storage.ControlGroup, Generation: 1}:              "control",
		{Group: storage.GroupOf(partition.ID(57)), Generation: 1}: "57",
	} {
		if got := loggedPartition(of); got != want {
			t.Errorf("%v is logged as %q, want %q", of, got, want)
		}
	}
}
