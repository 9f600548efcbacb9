package main

import (
	"encoding/json"
	"net"
	"regexp"
	"strings"
	"testing"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

var tookSeconds = regexp.MustCompile(`\b\d+(\.\d)?s\b`)

// timeless is text without how long something took.
func timeless(text string) string { return tookSeconds.ReplaceAllString(text, "Ns") }

func TestChaosCut(t *testing.T) {
	const slow = "  n1 takes n3 for the leader: partitions 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15\n"
	for name, test := range map[string]struct {
		nodes          int
		prepare        func(l *fakeLab)
		args           []string
		stdout, stderr string
		status         int
		told           string
	}{
		"two groups": {args: []string{"cut", "n1,n2", "n3"}, told: "n1: n3; n2: n3; n3: n1 n2",
			stdout: "cut n1,n2 | n3   settled in Ns: n1 and n2 lead all 16 partitions, n3 leads none\n"},
		"one group": {args: []string{"cut", "n3"}, told: "n1: n3; n2: n3; n3: n1 n2",
			stdout: "cut n3 | n1,n2   settled in Ns: n3 leads none, n1 and n2 lead all 16 partitions\n"},
		"isolated": {args: []string{"isolate", "n3"}, told: "n1: n3; n2: n3; n3: n1 n2",
			stdout: "cut n3 | n1,n2   settled in Ns: n3 leads none, n1 and n2 lead all 16 partitions\n"},
		"everyone alone": {args: []string{"cut", "n1", "n2", "n3"}, told: "n1: n2 n3; n2: n1 n3; n3: n1 n2",
			stdout: "cut n1 | n2 | n3   settled in Ns: n1 leads none, n2 leads none, n3 leads none, 16 partitions led by no group\n"},
		"a node in no group": {nodes: 4, args: []string{"cut", "n3", "n1,n2"}, told: "n1: n3; n2: n3; n3: n1 n2; n4: ",
			stdout: "cut n3 | n1,n2   settled in Ns: n3 leads none, n1 and n2 lead all 16 partitions\n"},
		"a node that is down": {prepare: func(l *fakeLab) { l.first, l.dead = "n1", "n3"; l.at("n3").stop() }, args: []string{"cut", "n1", "n2,n3"}, told: "n1: n2 n3; n2: n1; n3: -",
			stderr: "down, and not told: n3\n", stdout: "cut n1 | n2,n3   settled in Ns: n1 leads none, n2 and n3 lead none, 16 partitions led by no group\n"},
		"it does not settle": {prepare: func(l *fakeLab) { l.settle = 1e9 }, args: []string{"cut", "n1,n2", "n3"}, told: "n1: n3; n2: n3; n3: n1 n2",
			status: 4, stdout: "cut n1,n2 | n3   not settled after Ns:\n" + slow},
		"a node falls silent": {prepare: func(l *fakeLab) {
			l.at("n3").failStatus = failure(connect.CodeUnavailable, "stopping", &capstanv1.ErrorInfo{Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED})
		}, args: []string{"cut", "n1,n2", "n3"}, told: "n1: n3; n2: n3; n3: n1 n2",
			status: 4, stdout: "cut n1,n2 | n3   not settled after Ns:\n  n3 does not answer\n"},
		"a host that is down": {prepare: func(l *fakeLab) { l.dead, l.at("n3").url = "n3", silentHost(t) }, args: []string{"cut", "n1", "n2", "--timeout", "300ms"}, told: "n1: n2; n2: n1; n3: -",
			stderr: "down, and not told: n3\n", stdout: "cut n1 | n2   settled in Ns: n1 leads none, n2 leads none, 16 partitions led by no group\n"},
		"a node that hangs": {prepare: func(l *fakeLab) { l.at("n3").url = silentHost(t) }, args: []string{"cut", "n1", "n2", "--timeout", "300ms"}, told: "n1: -; n2: -; n3: -",
			status: 3, stderr: "error: deadline_exceeded: n3: URL: context deadline exceeded\n"},
		"not enabled": {prepare: func(l *fakeLab) { l.at("n2").fail = connect.NewError(connect.CodeUnimplemented, nil) }, args: []string{"cut", "n1,n2", "n3"}, told: "n1: -; n2: -; n3: -",
			status: 3, stderr: "error: n2 was not started with --enable-chaos\n  try: capstan demo, or capstan serve --enable-chaos\n"},
		"one does not obey": {prepare: func(l *fakeLab) {
			l.at("n2").failCut = failure(connect.CodeUnavailable, "stopping", &capstanv1.ErrorInfo{Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED})
		}, args: []string{"cut", "n1,n2", "n3"}, told: "n1: n3; n2: n3; n3: n1 n2",
			status: 4, stderr: "error: unavailable: n2: stopping\n  outcome unknown: it may have been done, or may yet be\n  try: the same again, or capstan chaos heal\n"},

		"no group":      {args: []string{"cut"}, status: 2, told: "n1: -; n2: -; n3: -", stderr: "error: capstan chaos cut takes NODE,NODE..., got 0 arguments\n  try: capstan chaos cut --help\n"},
		"unknown node":  {args: []string{"cut", "n1", "n33"}, status: 2, told: "n1: -; n2: -; n3: -", stderr: "error: the cluster has no node \"n33\"\n  try: n3\n"},
		"strange node":  {args: []string{"cut", "n1", "somewhere"}, status: 2, told: "n1: -; n2: -; n3: -", stderr: "error: the cluster has no node \"somewhere\"\n  try: n1, n2, n3\n"},
		"named twice":   {args: []string{"cut", "n1,n2", "n2"}, status: 2, told: "n1: -; n2: -; n3: -", stderr: "error: n2 is named twice\n"},
		"all in one":    {args: []string{"cut", "n1,n2,n3"}, status: 2, told: "n1: -; n2: -; n3: -", stderr: "error: that is every node: there is nothing to cut it off from\n  try: capstan chaos cut n1 n2 n3\n"},
		"isolate two":   {args: []string{"isolate", "n1,n2"}, status: 2, told: "n1: -; n2: -; n3: -", stderr: "error: capstan chaos isolate takes one node\n  try: capstan chaos cut n1,n2\n"},
		"negative wait": {args: []string{"cut", "n1", "--wait", "-1s"}, status: 2, told: "n1: -; n2: -; n3: -", stderr: "error: --wait must not be below 0\n"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, max(3, test.nodes))
			if test.prepare != nil {
				test.prepare(l)
			}
			args := append([]string{"chaos"}, test.args...)
			if test.status == 4 {
				args = append(args, "--wait", "200ms")
			}
			stdout, stderr, status := shell(t, "", args...)
			stdout, stderr = timeless(stdout), strings.ReplaceAll(stderr, l.at("n3").url, "URL")
			good := stdout == test.stdout
			if test.status == 4 { // how far it came depends
				good = strings.HasPrefix(stdout, test.stdout)
			}
			if !good || stderr != test.stderr || status != test.status {
				t.Errorf("stdout %q\n  want %q\nstderr %q\n  want %q\nstatus %d, want %d", stdout, test.stdout, stderr, test.stderr, status, test.status)
			}
			if told := l.told(); told != test.told {
				t.Errorf("told %q\nwant %q", told, test.told)
			}
		})
	}
}

// silentHost takes connections and says nothing.
func silentHost(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return "http://" + l.Addr().String()
}

func TestChaosCutJSON(t *testing.T) {
	newLab(t, 3)
	stdout, stderr, status := shell(t, "", "chaos", "cut", "n1,n2", "n3", "-o", "json")
	var r cutReport
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || status != 0 || !r.Settled || r.Seconds <= 0 || r.Partitions != 16 || len(r.Leads) != 2 || r.Leads[0] != 16 {
		t.Errorf("%v, status %d: %s%s", err, status, stdout, stderr)
	}
	if !strings.Contains(stdout, `"groups":[["n1","n2"],["n3"]]`) || !strings.HasSuffix(stdout, `"leads":[16,0],"unsettled":[],"silent":[],"unreached":[]}`+"\n") {
		t.Error(stdout)
	}
}

func TestChaosHeal(t *testing.T) {
	cut := func(l *fakeLab) {
		l.at("n1").cut, l.at("n2").cut, l.at("n3").cut = []string{"n3"}, []string{"n3"}, []string{"n1", "n2"}
		l.at("n1").cutAge, l.at("n3").cutAge = 37.9, 38.04
	}
	const everyone = "n1: ; n2: ; n3: "
	for name, test := range map[string]struct {
		prepare        func(l *fakeLab)
		stdout, stderr string
		status         int
		told           string
	}{
		"merged": {cut, "healed after 38s   no tentative writes left after N\n", "", 0, everyone},
		"merging": {func(l *fakeLab) {
			cut(l)
			l.backlog = func(node string, looks int) uint64 { return uint64(max(0, 4-looks)) }
		}, "healed after 38s   no tentative writes left after N\n", "", 0, everyone},
		"since when nobody knows": {func(l *fakeLab) { l.at("n3").cut = []string{"n1"} }, "healed   no tentative writes left after N\n", "", 0, everyone},
		"nothing was cut":         {func(*fakeLab) {}, "nothing was cut   no tentative writes left after N\n", "", 0, everyone},
		"not merged": {func(l *fakeLab) {
			cut(l)
			l.backlog = func(node string, looks int) uint64 { return map[string]uint64{"n1": 1, "n3": 4}[node] }
		}, "healed after 38s   not merged after N: n1 holds 2 tentative writes, n3 holds 8 tentative writes\n", "", 4, everyone},
		"a node that is down": {func(l *fakeLab) { l.at("n2").stop() }, "nothing was cut   no tentative writes left after N\n", "down, and not told: n2\n", 0, "n1: ; n2: -; n3: "},
		"not enabled": {func(l *fakeLab) { l.at("n3").fail = connect.NewError(connect.CodeUnimplemented, nil) }, "",
			"error: n3 was not started with --enable-chaos\n  try: capstan demo, or capstan serve --enable-chaos\n", 3, "n1: -; n2: -; n3: -"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 3)
			test.prepare(l)
			args := []string{"chaos", "heal"}
			if test.status == 4 {
				args = append(args, "--wait", "200ms")
			}
			stdout, stderr, status := shell(t, "", args...)
			stdout = regexp.MustCompile(`(left|merged) after \d\.\ds`).ReplaceAllString(stdout, "$1 after N")
			if stdout != test.stdout || stderr != test.stderr || status != test.status {
				t.Errorf("stdout %q\n  want %q\nstderr %q\n  want %q\nstatus %d, want %d", stdout, test.stdout, stderr, test.stderr, status, test.status)
			}
			if told := l.told(); told != test.told {
				t.Errorf("told %q\nwant %q", told, test.told)
			}
		})
	}
	t.Run("json", func(t *testing.T) {
		cut(newLab(t, 3))
		stdout, _, status := shell(t, "", "chaos", "heal", "-o", "json")
		var r healReport
		if err := json.Unmarshal([]byte(stdout), &r); err != nil || status != 0 || !r.WasCut || *r.CutSeconds != 38.04 || !strings.HasSuffix(stdout, `"tentative":[],"silent":[],"unreached":[]}`+"\n") {
			t.Errorf("%v, status %d: %s", err, status, stdout)
		}
	})
}

func TestChaosStatus(t *testing.T) {
	l := newLab(t, 3)
	l.at("n1").cut, l.at("n1").cutAge = []string{"n2", "n3"}, 8.26
	l.at("n3").cut = []string{"n1"}
	l.at("n2").stop()
	want := "NODE  CUT FROM             FOR\nn1    n2 n3                8.3s\nn2    (cannot be reached)  -\nn3    n1                   -\n"
	if stdout, stderr, status := shell(t, "", "chaos", "status"); stdout != want || status != 0 {
		t.Errorf("status %d\n%s\nwant\n%s%s", status, stdout, want, stderr)
	}
	want = `{"node":"n1","reached":true,"cutFrom":["n2","n3"],"cutSeconds":8.26}
{"node":"n2","reached":false,"cutFrom":[],"cutSeconds":null}
{"node":"n3","reached":true,"cutFrom":["n1"],"cutSeconds":null}
`
	if stdout, _, status := shell(t, "", "chaos", "status", "-o", "json"); stdout != want || status != 0 {
		t.Errorf("status %d\n%s\nwant\n%s", status, stdout, want)
	}
}

func TestStatusShowsCuts(t *testing.T) {
	l := newLab(t, 3)
	l.at("n1").cut = []string{"n3"}
	l.backlog = func(string, int) uint64 { return 6 }
	stdout, _, status := shell(t, "", "status")
	if !strings.Contains(stdout, "n1    alive, cut from n3  ") || !strings.HasSuffix(stdout, "partitions 16: 16 with a leader  tentative writes 12 in 2 partitions\n") || status != 0 {
		t.Errorf("status %d\n%s", status, stdout)
	}
}

func TestStatusNamesWhoHoldsTombstonesBack(t *testing.T) {
	var out strings.Builder
	showStatus(&out, &capstanv1.GetStatusResponse{Nodes: []*capstanv1.Node{
		{Name: "n2", State: capstanv1.NodeState_NODE_STATE_ALIVE},
		{Name: "n3", State: capstanv1.NodeState_NODE_STATE_DEAD, HoldsBack: 4},
	}})
	if !strings.Contains(out.String(), "n3    dead, holds back tombstones of 4 partitions  ") || !strings.Contains(out.String(), "n2    alive  ") {
		t.Error(out.String())
	}
}

func TestBecause(t *testing.T) {
	open := []openPartition{{0, "x"}, {1, "y"}, {2, "x"}}
	if got := strings.Join(because(open), "; "); got != "x: partitions 0 2; y: partition 1" {
		t.Error(got)
	}
	for id := range uint32(20) {
		open = append(open, openPartition{100 + id, "y"})
	}
	if got := because(open)[1]; !strings.HasSuffix(got, " 113 114 and 5 more") {
		t.Error(got)
	}
}

// How long something took, as people say it.
func TestSpan(t *testing.T) {
	for seconds, want := range map[float64]string{0: "0.0s", 0.24: "0.2s", 2.449: "2.4s", 9.94: "9.9s", 9.96: "10s", 38.2: "38s", 98: "1m38s", 7261: "2h1m1s"} {
		if got := span(seconds); got != want {
			t.Errorf("%g seconds are %s, want %s", seconds, got, want)
		}
	}
}
