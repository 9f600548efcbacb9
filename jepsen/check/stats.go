package check

import (
	"fmt"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// Stats are numbers of a run that judge nothing. Each part belongs to the checker
// that sets it; nil: it did not run.
type Stats struct {
	// Fates of the eventual writes, a workload each, if they were asked for.
	Fates []Fates `json:"fates,omitempty"`
	// Staleness of answers, as the workload of that name measured it.
	Staleness *Staleness `json:"staleness,omitempty"`
	// Availability is the ledger of the workload of that name.
	Availability *Availability `json:"availability,omitempty"`
}

// Fates counts what became of the eventual writes of a workload that gave a receipt.
type Fates struct {
	Workload   string `json:"workload"`
	Writes     int    `json:"writes"`
	Committed  int    `json:"committed"`
	Superseded int    `json:"superseded"`
	Lost       int    `json:"lost"`
	Expired    int    `json:"expired"`
	Pending    int    `json:"pending"`
	// Conflicts that are listed of the workload's keys.
	Conflicts int `json:"conflicts"`
}

// SupersededPercent of the writes.
func (f Fates) SupersededPercent() float64 {
	return 100 * float64(f.Superseded) / float64(max(f.Writes, 1))
}

// String is one line.
func (f Fates) String() string {
	return fmt.Sprintf("of %d eventual writes %d were committed, %d superseded (%.1f %%), %d lost",
		f.Writes, f.Committed, f.Superseded, f.SupersededPercent(), f.Lost)
}

// countFates of all workloads.
func countFates(h *history.History, workloads []string) []Fates {
	var all []Fates
	for _, name := range workloads {
		f := Fates{Workload: name}
		keys := map[string]bool{}
		for i := range h.Ops {
			if o := &h.Ops[i]; o.Workload == name {
				keys[o.Key] = true
				if o.Receipt != "" {
					f.Writes++
				}
			}
		}
		if f.Writes == 0 {
			continue
		}
		for _, fate := range h.Fates {
			if h.Ops[fate.Op].Workload != name {
				continue
			}
			switch fate.Fate {
			case "pending":
				f.Pending++
			case "committed":
				f.Committed++
			case "superseded":
				f.Superseded++
			case "lost":
				f.Lost++
			case "expired":
				f.Expired++
			}
		}
		for _, c := range h.Conflicts {
			if keys[c.Key] {
				f.Conflicts++
			}
		}
		all = append(all, f)
	}
	return all
}
