package check

import (
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/capstan-kv/capstan/jepsen/workload"
)

// What versions explain, a search would have found, whatever is wrong; and they
// explain nearly all that is right.
func TestScansThatVersionsExplainAreRight(t *testing.T) {
	w, err := workload.Find("scan")
	if err != nil {
		t.Fatal(err)
	}
	right, explains, wrong := 0, 0, 0
	for _, fault := range []string{"", "torn-scan", "stale-read", "lost-write", "phantom-key"} {
		for seed := range uint64(4) {
			h := runModel(w, seed, fault, 1500)
			all, _ := byWorkload(h)
			of, tags := byTag(all)
			for _, name := range tags {
				ops := moments(of[name])
				switch porcupine.CheckOperationsTimeout(tagModel, ops, 10*time.Second) {
				case porcupine.Illegal:
					wrong++
					if explained(ops) {
						t.Fatalf("fault %q, seed %d, tag %s: explained, and no order is right", fault, seed, name)
					}
				case porcupine.Ok:
					right++
					if explained(ops) {
						explains++
					}
				}
			}
		}
	}
	t.Logf("of %d tags that are right versions explain %d; %d are wrong", right, explains, wrong)
	if wrong == 0 || explains < right/2 {
		t.Errorf("of %d tags that are right versions explain %d; %d are wrong", right, explains, wrong)
	}
}
