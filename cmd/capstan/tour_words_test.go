//go:build linux

package main

import (
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

func versionAt(index, timestamp uint64, node string) *capstanv1.Version {
	return &capstanv1.Version{Index: index, Timestamp: timestamp, Node: node}
}

// The tour, with nodes that answer what it says: each word, column and exit
// status is the program's own.
func TestTourWords(t *testing.T) {
	l := newLab(t, 3)
	n1, n3 := l.at("n1"), l.at("n3")
	committed := func(at *fake, v *capstanv1.Version) {
		at.put = &capstanv1.PutResponse{Version: v, ServedBy: v.GetNode()[:2]}
	}
	tentative := func(at *fake, node, receipt string) {
		at.put = &capstanv1.PutResponse{Version: versionAt(0, 117309440983040000, node), Receipt: receipt, ServedBy: node[:2], Base: 12}
	}
	fated := func(fate capstanv1.Fate, v *capstanv1.Version) {
		n1.await = &capstanv1.AwaitWriteResponse{Fate: fate, Version: v, ServedBy: "n1"}
	}
	read := func(at *fake, value string, f *capstanv1.Freshness) {
		at.get = &capstanv1.GetResponse{Found: true, Value: []byte(value), Version: versionAt(0, 5, "n3-p7wd"), Freshness: f}
	}
	fig := versionAt(14, 117309442228224000, "n1-k3f9")
	answers := []func(){
		func() { committed(n1, fakeVersion) },
		func() { tentative(n1, "n1-k3f9", "wr_9Qm2xT") },
		func() { fated(capstanv1.Fate_FATE_COMMITTED, versionAt(13, 117309440983040000, "n1-k3f9")) },
		func() {}, // cut
		func() {
			n3.locate = &capstanv1.LocateKeyResponse{Partition: 9, Replicas: []string{"n1", "n2", "n3"}, Routes: []*capstanv1.Route{
				{Consistency: capstanv1.Consistency_CONSISTENCY_LINEARIZABLE, Refusal: "2 of 3 replicas needed"},
				{Consistency: capstanv1.Consistency_CONSISTENCY_BOUNDED_STALENESS, Refusal: "refused once the bound is used up: no leader to ask"},
				{Consistency: capstanv1.Consistency_CONSISTENCY_EVENTUAL, ReadsFrom: "n3", WritesTo: "n3"},
			}}
		},
		func() {
			n3.fail = failure(connect.CodeUnavailable, "no quorum for partition 9: n3 reaches 1 of 3 replicas, 2 needed; try: --via n1 or --via n2, or --ap to write at n3 now and merge when the cut heals",
				&capstanv1.ErrorInfo{Reason: capstanv1.Reason_REASON_NO_QUORUM, Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED, Reachable: 1, Needed: 2})
		},
		func() { n3.fail = nil }, // echo
		func() { committed(n1, fig) },
		func() { tentative(n3, "n3-p7wd", "wr_Hs7LpA") },
		func() { read(n3, "plum", &capstanv1.Freshness{ServedBy: "n3", Tentative: true}) },
		func() { tentative(n1, "n1-k3f9", "wr_c4Yt0B") },
		func() { tentative(n3, "n3-p7wd", "wr_Zk81qD") },
		func() { n1.cutAge, n3.cutAge = 38.2, 38.1 },
		func() { fated(capstanv1.Fate_FATE_SUPERSEDED, fig) },
		func() { read(n3, "fig", &capstanv1.Freshness{ServedBy: "n3"}) },
		func() { read(n1, "right", &capstanv1.Freshness{ServedBy: "n1"}) },
		func() {
			lost := func(key, value string, winner *capstanv1.Version, why capstanv1.ConflictCause) *capstanv1.Conflict {
				return &capstanv1.Conflict{Key: []byte(key), LosingValue: []byte(value), LosingVersion: versionAt(0, 5, "n3-p7wd"), WinningVersion: winner, Cause: why, Time: timestamppb.Now()}
			}
			n1.conflicts = []*capstanv1.ListConflictsResponse{
				{Conflicts: []*capstanv1.Conflict{lost("cart:42", "plum", fig, capstanv1.ConflictCause_CONFLICT_CAUSE_STALE_BASE)}},
				{Conflicts: []*capstanv1.Conflict{lost("note:7", "left", versionAt(6, 117309443145728000, "n3-p7wd"), capstanv1.ConflictCause_CONFLICT_CAUSE_OLDER)}},
			}
		},
		func() { tentative(n1, "n1-k3f9", "wr_B7mEoW") },
		func() { fated(capstanv1.Fate_FATE_COMMITTED, versionAt(15, 117309444784128000, "n1-k3f9")) },
	}
	steps := tourSteps(t, "levels.txt")
	if len(steps) != len(answers) {
		t.Fatalf("the tour has %d steps, %d are answered", len(steps), len(answers))
	}
	user := newTourist(t, n1.url)
	for i, step := range steps {
		answers[i]()
		got := user.types(t, step.command)
		if !strings.Contains(step.command, "chaos") && got != step.shows || timeless(got) != timeless(step.shows) {
			t.Errorf("$ %s\nshows\n%s\nwant\n%s", step.command, got, step.shows)
		}
	}
	if user.last != 0 {
		t.Errorf("the last status is %d", user.last)
	}
}
