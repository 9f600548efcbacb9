package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

const putJSON = `{"version":{"index":"12","timestamp":"117309440000000003","node":"n1-k3f9"},"receipt":"","session":"s2","servedBy":"n1","base":"0"}` + "\n"

func TestCommands(t *testing.T) {
	f := newFake(t)
	file := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name           string
		args           []string
		stdin          string
		stdout, stderr string
		status         int
		request        proto.Message
	}{
		{name: "put", args: []string{"put", "cart:42", "apple"}, stdout: "committed   12-117309440000000003-n1-k3f9  by n1\n",
			request: &capstanv1.PutRequest{Key: []byte("cart:42"), Value: []byte("apple"), Consistency: capstanv1.Consistency_CONSISTENCY_LINEARIZABLE}},
		{name: "put from stdin", args: []string{"put", "k", "-", "-o", "json"}, stdin: "a\x00b", stdout: putJSON,
			request: &capstanv1.PutRequest{Key: []byte("k"), Value: []byte("a\x00b"), Consistency: 1}},
		{name: "put a file", args: []string{"put", "k", "--file", file, "--if-absent"}, stdout: "committed   12-117309440000000003-n1-k3f9  by n1\n",
			request: &capstanv1.PutRequest{Key: []byte("k"), Value: []byte("from a file\n"), Consistency: 1, Condition: &capstanv1.Condition{Test: &capstanv1.Condition_Absent{Absent: true}}}},
		{name: "put a dash, hexadecimal key, a version", args: []string{"put", "--hex-key", "--if-version", "12-117309440000000003-n1-k3f9", "--", "00ff", "-5"}, stdout: "committed   12-117309440000000003-n1-k3f9  by n1\n",
			request: &capstanv1.PutRequest{Key: []byte{0, 255}, Value: []byte("-5"), Consistency: 1, Condition: &capstanv1.Condition{Test: &capstanv1.Condition_Version{Version: fakeVersion}}}},
		{name: "get", args: []string{"get", "cart:42"}, stdout: "apple",
			request: &capstanv1.GetRequest{Key: []byte("cart:42"), Consistency: 1}},
		{name: "get verbose", args: []string{"get", "-v", "--ap", "--replicas", "2", "k"}, stdout: "apple", stderr: "committed 12-117309440000000003-n1-k3f9, by n1, staleness 0s\n",
			request: &capstanv1.GetRequest{Key: []byte("k"), Consistency: 3, Replicas: 2}},
		{name: "get json", args: []string{"get", "k", "-o", "json"},
			stdout: `{"found":true,"value":"YXBwbGU=","version":{"index":"12","timestamp":"117309440000000003","node":"n1-k3f9"},"freshness":{"servedBy":"n1","tentative":false,"staleness":"0s"},"session":"s2"}` + "\n"},
		{name: "delete", args: []string{"delete", "k"}, stdout: "committed   12-117309440000000003-n1-k3f9  by n1\n",
			request: &capstanv1.DeleteRequest{Key: []byte("k"), Consistency: 1}},
		{name: "scan", args: []string{"scan", "--prefix", "x", "--limit", "2"}, stdout: "a\t1\n\"b\\x00\"\t\"two\\n\"\n", stderr: "there is more: --limit was reached\n",
			request: &capstanv1.ScanRequest{Prefix: []byte("x"), Limit: 2, Consistency: 1}},
		{name: "scan keys", args: []string{"scan", "--keys-only", "--start", "a", "--end", "b"}, stdout: "a\n\"b\\x00\"\n", stderr: "there is more: --limit was reached\n",
			request: &capstanv1.ScanRequest{Start: []byte("a"), End: []byte("b"), KeysOnly: true, Consistency: 1}},
		{name: "scan json", args: []string{"scan", "-o", "json"}, stdout: `{"entries":[{"key":"YQ==","value":"MQ==","version":{"index":"12","timestamp":"117309440000000003","node":"n1-k3f9"}},{"key":"YgA=","value":"dHdvCg=="}]}` + "\n" +
			`{"entries":[],"end":{"more":true,"freshness":{"servedBy":"n1","tentative":false},"session":""}}` + "\n"},
		{name: "transfer", args: []string{"leader", "transfer", "9", "n2"}, stdout: "partition 9  led by n2\n",
			request: &capstanv1.TransferLeadershipRequest{Partition: 9, To: "n2"}},
		{name: "drain", args: []string{"node", "drain", "n2"}, stdout: "draining   n2\n", request: &capstanv1.DrainNodeRequest{Node: "n2"}},
		{name: "remove", args: []string{"node", "remove", "n2"}, stdout: "removed   n2\n", request: &capstanv1.RemoveNodeRequest{Node: "n2"}},
		{name: "remove and forfeit", args: []string{"node", "remove", "n2", "--forfeit-tentative"}, stdout: "removed   n2\n", request: &capstanv1.RemoveNodeRequest{Node: "n2", ForfeitTentative: true}},
		{name: "bounded get", args: []string{"get", "--consistency", "bounded", "--max-staleness", "5s", "k"}, stdout: "apple",
			request: &capstanv1.GetRequest{Key: []byte("k"), Consistency: 2, MaxStaleness: durationpb.New(5 * time.Second)}},
		{name: "bounded scan", args: []string{"scan", "--consistency=bounded", "--max-staleness=1s"}, stdout: "a\t1\n\"b\\x00\"\t\"two\\n\"\n", stderr: "there is more: --limit was reached\n",
			request: &capstanv1.ScanRequest{Consistency: 2, MaxStaleness: durationpb.New(time.Second)}},
		{name: "eventual scan", args: []string{"scan", "--ap", "-v"}, stdout: "a\t1\n\"b\\x00\"\t\"two\\n\"\n", stderr: "there is more: --limit was reached\ncommitted, by n1, staleness unknown\n",
			request: &capstanv1.ScanRequest{Consistency: 3}},
		{name: "via", args: []string{"get", "--via", "n1", "k"}, stdout: "apple"},

		{name: "no command", args: []string{"frobnicate"}, stderr: "error: unknown command \"frobnicate\" for \"capstan\"\n  try: capstan --help\n", status: 2},
		{name: "near command", args: []string{"stats"}, stderr: "error: unknown command \"stats\" for \"capstan\"\n  try: capstan status\n", status: 2},
		{name: "near subcommand", args: []string{"node", "lst"}, stderr: "error: unknown command \"lst\" for \"capstan node\"\n  try: capstan node list\n", status: 2},
		{name: "a group alone", args: []string{"leader"}, stderr: "error: capstan leader needs a command\n  try: capstan leader --help\n", status: 2},
		{name: "unknown flag", args: []string{"get", "--timout", "3", "k"}, stderr: "error: unknown flag: --timout\n  try: --timeout\n", status: 2},
		{name: "missing argument", args: []string{"put", "k"}, stderr: "error: capstan put takes KEY VALUE, got 1 argument\n  try: capstan put KEY - reads the value from standard input\n", status: 2},
		{name: "duration without unit", args: []string{"get", "--timeout", "5", "k"}, stderr: "error: invalid argument \"5\" for \"--timeout\" flag: time: missing unit in duration \"5\"\n  try: --timeout 5s\n", status: 2},
		{name: "value that looks like a flag", args: []string{"put", "k", "-5"}, stderr: "error: unknown shorthand flag: '5' in -5\n  try: capstan put -- and then the arguments, if one of them begins with a dash\n", status: 2},
		{name: "help about nothing", args: []string{"help", "frobnicate"}, stderr: "error: no help for \"frobnicate\": there is no such command\n  try: capstan --help\n", status: 2},
		{name: "help about nothing in a group", args: []string{"help", "node", "lst"}, stderr: "error: no help for \"node lst\": there is no such command\n  try: capstan --help\n", status: 2},
		{name: "completion of a node", args: []string{"__complete", "node", "remove", ""}, stdout: ":4\n", stderr: "Completion ended with directive: ShellCompDirectiveNoFileComp\n"},
		{name: "completion of a file", args: []string{"__complete", "put", "k", "--file", ""}, stdout: ":0\n", stderr: "Completion ended with directive: ShellCompDirectiveDefault\n"},
		{name: "bounded put", args: []string{"put", "--consistency", "bounded", "k", "v"}, stderr: "error: a write is linearizable or eventual, never bounded\n", status: 2},
		{name: "bounded without bound", args: []string{"get", "--consistency", "bounded", "k"}, stderr: "error: a bounded read needs --max-staleness\n  try: --consistency bounded --max-staleness 5s\n", status: 2},
		{name: "bound without bounded", args: []string{"get", "--max-staleness", "5s", "k"}, stderr: "error: --max-staleness belongs to --consistency bounded\n", status: 2},
		{name: "acks, linearizable", args: []string{"put", "--acks", "2", "k", "v"}, stderr: "error: --acks belongs to eventual requests\n  try: --ap\n", status: 2},
		{name: "replicas, bounded", args: []string{"get", "--replicas", "2", "--consistency", "bounded", "--max-staleness", "1s", "k"}, stderr: "error: --replicas belongs to eventual requests\n  try: --ap\n", status: 2},
		{name: "eventual, conditional", args: []string{"delete", "--ap", "--if-present", "k"}, stderr: "error: --if-present belongs to linearizable writes: an eventual one looks at nothing\n  try: --cp\n", status: 2},
		{name: "two levels", args: []string{"get", "--ap", "--cp", "k"}, stderr: "error: if any flags in the group [consistency cp ap] are set none of the others can be; [ap cp] were all set\n  try: capstan get --help\n", status: 2},
		{name: "unknown level", args: []string{"get", "--consistency", "linearisable", "k"}, stderr: "error: unknown consistency \"linearisable\"\n  try: --consistency linearizable\n", status: 2},
		{name: "bad endpoint", args: []string{"get", "--endpoints", "ftp://x", "k"}, stderr: "error: endpoint \"ftp://x\": not of the form http://host:port\n  try: --endpoints http://127.0.0.1:7820\n", status: 2},
		{name: "bad output", args: []string{"get", "-o", "yaml", "k"}, stderr: "error: --output is text or json, not \"yaml\"\n", status: 2},
		{name: "bad partition", args: []string{"leader", "transfer", "x", "n2"}, stderr: "error: partition \"x\" is not a number\n", status: 2},
		{name: "no file", args: []string{"put", "k", "--file", "/nonexistent"}, stderr: "error: open /nonexistent: no such file or directory\n", status: 2},
		{name: "unknown node", args: []string{"get", "--via", "n9", "k"}, stderr: "error: invalid_argument: the cluster has no node \"n9\"\n", status: 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			args := test.args
			if !strings.Contains(strings.Join(args, " "), "--endpoints") {
				t.Setenv(endpointsVariable, " "+f.url+" , http://127.0.0.1:1")
			}
			stdout, stderr, status := shell(t, test.stdin, args...)
			if stdout != test.stdout || stderr != test.stderr || status != test.status {
				t.Errorf("stdout %q\n  want %q\nstderr %q\n  want %q\nstatus %d, want %d", stdout, test.stdout, stderr, test.stderr, status, test.status)
			}
			if test.request == nil {
				return
			}
			if sent := f.sent(test.request); !proto.Equal(sent, test.request) {
				t.Errorf("sent %s\nwant %s", prototext.Format(sent), prototext.Format(test.request))
			}
		})
	}
}

func TestVersionFlag(t *testing.T) {
	flag, _, status := shell(t, "", "--version")
	if command, _, _ := shell(t, "", "version"); flag != command || status != 0 || !strings.HasPrefix(flag, "capstan ") {
		t.Errorf("--version says %q with status %d, version says %q", flag, status, command)
	}
}

// An endpoint at which no node answers is explained.
func TestWrongEndpoints(t *testing.T) {
	for endpoint, want := range map[string]string{
		"http://127.0.0.1:7821":  "http://127.0.0.1:7820: port 7821 is usually for other nodes",
		"http://[::1]:7832":      "http://[::1]:7830: port 7832",
		"https://127.0.0.1:7820": "http://127.0.0.1:7820: nodes serve no TLS",
		"http://db.local":        "http://db.local:7820: without a port",
		"http://127.0.0.1:7820":  "--endpoints with the address of a running node",
		"n1":                     "--endpoints with the address of a running node",
	} {
		if got := wrongEndpoint([]string{endpoint}); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", endpoint, got, want)
		}
	}
}

func TestFailures(t *testing.T) {
	notApplied, unknown := capstanv1.Outcome_OUTCOME_NOT_APPLIED, capstanv1.Outcome_OUTCOME_UNKNOWN
	noQuorum := failure(connect.CodeUnavailable, "no quorum for partition 9: n3 reaches 1 of 3 replicas, 2 needed; try: --via n1 or --via n2, or --ap to write at n3 now and merge when the cut heals",
		&capstanv1.ErrorInfo{Reason: capstanv1.Reason_REASON_NO_QUORUM, Outcome: notApplied, Reachable: 1, Needed: 2})
	tests := []struct {
		name   string
		fail   error
		args   []string
		stderr string
		status int
	}{
		{"no quorum, put", noQuorum, []string{"put", "k", "v"}, `error: unavailable: no quorum for partition 9: n3 reaches 1 of 3 replicas, 2 needed
  not applied: nothing was written, a retry is safe
  try: --via n1 or --via n2, or --ap to write at n3 now and merge when the cut heals
`, 3},
		{"no quorum, get", noQuorum, []string{"get", "k"}, `error: unavailable: no quorum for partition 9: n3 reaches 1 of 3 replicas, 2 needed
  try: --via n1 or --via n2, or --ap to write at n3 now and merge when the cut heals
`, 3},
		{"condition failed", failure(connect.CodeFailedPrecondition, "the key is present", &capstanv1.ErrorInfo{Reason: capstanv1.Reason_REASON_CONDITION_FAILED, Outcome: notApplied, Current: fakeVersion}),
			[]string{"put", "--if-absent", "k", "v"}, "error: failed_precondition: the key is present\n  not applied: nothing was written, the key's version is 12-117309440000000003-n1-k3f9\n", 1},
		{"invalid", failure(connect.CodeInvalidArgument, "key is empty", &capstanv1.ErrorInfo{Reason: capstanv1.Reason_REASON_BAD_KEY, Outcome: notApplied}),
			[]string{"put", "", "v"}, "error: invalid_argument: key is empty\n  not applied: nothing was written\n", 2},
		{"leader changed", failure(connect.CodeAborted, "the leader changed", &capstanv1.ErrorInfo{Reason: capstanv1.Reason_REASON_LEADER_CHANGED, Outcome: unknown}),
			[]string{"delete", "k"}, "error: aborted: the leader changed\n  outcome unknown: it may have been written, or may yet be\n  try: read the key before writing again\n", 4},
		{"an order", failure(connect.CodeAborted, "the leader changed", &capstanv1.ErrorInfo{Reason: capstanv1.Reason_REASON_LEADER_CHANGED, Outcome: unknown}),
			[]string{"leader", "transfer", "9", "n2"}, "error: aborted: the leader changed\n  outcome unknown: it may have been done, or may yet be\n  try: capstan status shows what became of it\n", 4},
		{"too few nodes hold it", failure(connect.CodeAborted, "1 of 2 nodes hold the write", &capstanv1.ErrorInfo{Reason: capstanv1.Reason_REASON_TOO_FEW_ACKS, Outcome: unknown, Reachable: 1, Needed: 2, Receipt: "wr_9Qm2xT"}),
			[]string{"put", "--ap", "--acks", "2", "k", "v"}, "error: aborted: 1 of 2 nodes hold the write\n  outcome unknown: it may have been written, or may yet be\n  try: capstan await wr_9Qm2xT tells what became of it\n", 4},
		{"too few nodes reachable", failure(connect.CodeUnavailable, "n3 reaches 1 node, 2 acks were asked for; try: --acks 1", &capstanv1.ErrorInfo{Reason: capstanv1.Reason_REASON_TOO_FEW_ACKS, Outcome: notApplied, Reachable: 1, Needed: 2}),
			[]string{"put", "--ap", "--acks", "2", "k", "v"}, "error: unavailable: n3 reaches 1 node, 2 acks were asked for\n  not applied: nothing was written, a retry is safe\n  try: --acks 1\n", 3},
		{"remove a node that may hold writes", failure(connect.CodeFailedPrecondition, "n2 may hold eventual writes that no other node has; try: --forfeit-tentative", &capstanv1.ErrorInfo{Outcome: notApplied}),
			[]string{"node", "remove", "n2"}, "error: failed_precondition: n2 may hold eventual writes that no other node has\n  not applied: nothing was changed\n  try: --forfeit-tentative\n", 3},
		{"too stale", failure(connect.CodeUnavailable, "n3 can not prove that it is at most 1s behind", &capstanv1.ErrorInfo{Reason: capstanv1.Reason_REASON_TOO_STALE, Outcome: notApplied}),
			[]string{"get", "--consistency", "bounded", "--max-staleness", "1s", "k"}, "error: unavailable: n3 can not prove that it is at most 1s behind\n", 3},
		{"json", failure(connect.CodeAborted, "the leader changed", &capstanv1.ErrorInfo{Reason: capstanv1.Reason_REASON_LEADER_CHANGED, Outcome: unknown}),
			[]string{"delete", "-o", "json", "k"}, `{"code":"aborted","message":"the leader changed","info":{"reason":"REASON_LEADER_CHANGED","outcome":"OUTCOME_UNKNOWN","leader":"","reachable":0,"needed":0,"receipt":"","session":""}}` + "\n", 4},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t)
			f.fail = test.fail
			t.Setenv(endpointsVariable, f.url)
			stdout, stderr, status := shell(t, "", append(test.args, "--via", f.url)...)
			if stdout != "" || stderr != test.stderr || status != test.status {
				t.Errorf("stdout %q\nstderr %q\n  want %q\nstatus %d, want %d", stdout, stderr, test.stderr, status, test.status)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		_, stderr, status := shell(t, "", "put", "--via", "http://127.0.0.1:1", "k", "v")
		if status != 3 || !strings.Contains(stderr, "not applied") || !strings.Contains(stderr, "capstan demo") {
			t.Errorf("status %d: %s", status, stderr)
		}
	})
	t.Run("a scan that breaks off", func(t *testing.T) {
		f := newFake(t)
		f.scan = f.scan[:1]
		stdout, stderr, status := shell(t, "", "scan", "--endpoints", f.url)
		if status != 3 || !strings.HasPrefix(stdout, "a\t1\n") || !strings.Contains(stderr, "incomplete") {
			t.Errorf("status %d: %s", status, stderr)
		}
	})
}

func TestNotFound(t *testing.T) {
	f := newFake(t)
	f.get = &capstanv1.GetResponse{Freshness: &capstanv1.Freshness{ServedBy: "n1"}}
	t.Setenv(endpointsVariable, f.url)
	if stdout, stderr, status := shell(t, "", "get", "k"); stdout != "" || stderr != "not found: k\n" || status != 1 {
		t.Errorf("got %q, %q, %d", stdout, stderr, status)
	}
	want := `{"found":false,"value":"","freshness":{"servedBy":"n1","tentative":false},"session":""}` + "\n"
	if stdout, stderr, status := shell(t, "", "get", "k", "-o", "json"); stdout != want || stderr != "" || status != 1 {
		t.Errorf("got %q, %q, %d", stdout, stderr, status)
	}
	absent := false
	f.delete.Existed = &absent
	if stdout, _, status := shell(t, "", "delete", "k"); !strings.HasSuffix(stdout, "by n1  (was absent)\n") || status != 0 {
		t.Errorf("got %q, %d", stdout, status)
	}
}

func TestSessionFile(t *testing.T) {
	f := newFake(t)
	t.Setenv(endpointsVariable, f.url)
	file := filepath.Join(t.TempDir(), "session")
	for _, want := range []string{"", "s2"} {
		if _, stderr, status := shell(t, "", "get", "k", "--session-file", file); status != 0 {
			t.Fatal(stderr)
		}
		if sent := f.sent(&capstanv1.GetRequest{}).(*capstanv1.GetRequest).GetSession(); sent != want {
			t.Errorf("sent session %q, want %q", sent, want)
		}
	}
	if kept, err := os.ReadFile(file); err != nil || string(kept) != "s2\n" {
		t.Errorf("kept %q, %v", kept, err)
	}
	// A failed write may have happened: its session goes on with it.
	f.fail = failure(connect.CodeAborted, "1 of 2 nodes hold the write", &capstanv1.ErrorInfo{Outcome: capstanv1.Outcome_OUTCOME_UNKNOWN, Session: "s3"})
	if _, stderr, status := shell(t, "", "put", "--ap", "--acks", "2", "k", "v", "--session-file", file); status != 4 || !strings.Contains(stderr, "1 of 2") {
		t.Errorf("status %d: %s", status, stderr)
	}
	if kept, err := os.ReadFile(file); err != nil || string(kept) != "s3\n" {
		t.Errorf("kept %q, %v", kept, err)
	}
	// The write is done, and the token lost: that must not look like success.
	f.fail = nil
	file = filepath.Join(t.TempDir(), "gone", "session")
	if stdout, stderr, status := shell(t, "", "put", "k", "v", "--session-file", file); stdout != "" || status != 3 || !strings.HasPrefix(stderr, "error: done, but the session's token cannot be kept: ") {
		t.Errorf("status %d: %s%s", status, stdout, stderr)
	}
}

func TestTables(t *testing.T) {
	f := newFake(t)
	t.Setenv(endpointsVariable, f.url)
	address := strings.TrimPrefix(f.url, "http://")
	pad := strings.Repeat(" ", len(address)-3)
	tests := map[string]string{
		"status": "cluster c-7f3a  as n1 sees it  replication factor 3  ring epoch 4\n\n" +
			"NODE  STATE  LEADS  REPLICAS  API" + pad + "  PEER            GOSSIP          ZONE  VERSION  ID\n" +
			"n1    alive  1      2         " + address + "  127.0.0.1:7821  127.0.0.1:7822  -     v0.1.0   n1-k3f9\n" +
			"n2    dead   0      2         -" + pad + "    -               -               b     -        n2-p7wd\n" +
			"\npartitions 2: 1 with a leader, 1 without\n",
		"ring": "ring epoch 4  as n1 sees it\n\n" +
			"PARTITION  LEADER  TERM  REPLICAS         COMMIT  APPLIED  TENTATIVE\n" +
			"0          n1      3     n1 n2 (no vote)  12      12       0\n" +
			"1          -       3     n1 n2            -       5..7     0\n",
	}
	for command, want := range tests {
		if stdout, stderr, status := shell(t, "", command); stdout != want || status != 0 {
			t.Errorf("%s:\n%s\nwant\n%s\n%s", command, stdout, want, stderr)
		}
	}
	if stdout, _, _ := shell(t, "", "node", "list"); !strings.HasPrefix(stdout, "NODE  STATE") {
		t.Error(stdout)
	}
	if stdout, _, _ := shell(t, "", "ring", "-o", "json"); !strings.HasPrefix(stdout, `{"clusterId":"c-7f3a","nodes":[{"name":"n1"`) {
		t.Error(stdout)
	}
}

func TestExplain(t *testing.T) {
	f := newFake(t)
	f.locate = &capstanv1.LocateKeyResponse{Partition: 9, Replicas: []string{"n2", "n1-k3f9"}, Routes: []*capstanv1.Route{
		{Consistency: 1, Refusal: "2 of 2 replicas needed"},
		{Consistency: 2, Refusal: "refused once the bound is used up: no leader to ask"},
		{Consistency: 3, ReadsFrom: "n1", WritesTo: "n1-k3f9"},
	}}
	want := `cart:42  partition 9  replicas n1 n2  as n1 sees it: 1 of 2 reachable, no leader
  linearizable  refused: 2 of 2 replicas needed
  bounded       refused once the bound is used up: no leader to ask
  eventual      read and written at n1
`
	t.Setenv(endpointsVariable, f.url)
	if stdout, stderr, status := shell(t, "", "explain", "cart:42"); stdout != want || status != 0 {
		t.Errorf("got\n%s\nwant\n%s\n%s", stdout, want, stderr)
	}
	f.locate.Hash = 0x9c1f
	want = strings.Replace(want, "cart:42", "{cart:42}:item", 1) + "  hash          0000000000009c1f, of cart:42\n"
	if stdout, stderr, status := shell(t, "", "explain", "-v", "{cart:42}:item"); stdout != want || status != 0 {
		t.Errorf("got\n%s\nwant\n%s\n%s", stdout, want, stderr)
	}
	if stdout, _, status := shell(t, "", "explain", "-o", "json", "cart:42"); !strings.HasPrefix(stdout, `{"hash":"39967","partition":9,`) || status != 0 {
		t.Errorf("status %d: %s", status, stdout)
	}
}

func TestBench(t *testing.T) {
	f := newFake(t)
	t.Setenv(endpointsVariable, f.url)
	args := []string{"bench", "--duration", "100ms", "--warm-up", "10ms", "--keys", "600", "--clients", "4", "--conns", "2"}
	stdout, stderr, status := shell(t, "", args...)
	if status != 0 || !strings.Contains(stdout, "throughput") || !strings.Contains(stdout, "us per operation") || !strings.Contains(stdout, "errors      none") || stderr != "" {
		t.Errorf("status %d\n%s\n%s", status, stdout, stderr)
	}
	if last := f.sent(&capstanv1.BatchRequest{}).(*capstanv1.BatchRequest); last.GetOps()[0].GetDelete() == nil {
		t.Errorf("the keys are left behind: %v", last)
	}
	if stdout, stderr, status := shell(t, "", append(args, "--keep")...); status != 0 || f.sent(&capstanv1.BatchRequest{}).(*capstanv1.BatchRequest).GetOps()[0].GetPut() == nil {
		t.Errorf("status %d\n%s\n%s", status, stdout, stderr)
	}
	stdout, _, status = shell(t, "", append(args, "-o", "json", "--workload", "put", "--rate", "200")...)
	if status != 0 || !strings.Contains(stdout, `"loop":"open"`) || strings.Contains(stdout, `"server_cpu_us_per_op":null`) || strings.Count(stdout, "\n") != 1 {
		t.Errorf("status %d\n%s", status, stdout)
	}
	stdout, stderr, status = shell(t, "", append(args, "--ap", "--acks", "2", "--workload", "put")...)
	if want := (&capstanv1.PutRequest{}); status != 0 || !strings.HasPrefix(stdout, "put, eventual (acks 2), 4 clients") ||
		f.sent(want).(*capstanv1.PutRequest).GetAcks() != 2 || f.sent(want).(*capstanv1.PutRequest).GetConsistency() != capstanv1.Consistency_CONSISTENCY_EVENTUAL {
		t.Errorf("status %d\n%s\n%s", status, stdout, stderr)
	}
	if !strings.Contains(stdout, "promotion   p50 20.00ms  p99 20.00ms after it was accepted  (30 decided, 0 not yet)") {
		t.Errorf("no promotion lag:\n%s", stdout)
	}
	stdout, _, status = shell(t, "", append(args, "--ap", "--workload", "put", "--operations", "37", "--duration", "1m")...)
	if status != 0 || !strings.Contains(stdout, "(37 in ") {
		t.Errorf("status %d\n%s", status, stdout)
	}
	stdout, stderr, status = shell(t, "", append(args, "--consistency", "bounded", "--max-staleness", "1s", "--workload", "get")...)
	if want := (&capstanv1.GetRequest{}); status != 0 || !strings.HasPrefix(stdout, "get, bounded (at most 1s old), 4 clients") ||
		f.sent(want).(*capstanv1.GetRequest).GetMaxStaleness().AsDuration() != time.Second {
		t.Errorf("status %d\n%s\n%s", status, stdout, stderr)
	}
	if _, stderr, status := shell(t, "", append(args, "--consistency", "bounded", "--max-staleness", "1s")...); status != 2 || !strings.Contains(stderr, "try: --workload get") {
		t.Errorf("status %d: %s", status, stderr)
	}
	// Fewer clients than the default has connections.
	stdout, stderr, status = shell(t, "", "bench", "--duration", "50ms", "--warm-up", "0", "--keys", "10", "--clients", "1")
	if status != 0 || !strings.Contains(stdout, "1 clients on 1 connections") {
		t.Errorf("status %d\n%s\n%s", status, stdout, stderr)
	}
	f.mu.Lock()
	f.fail = failure(connect.CodeResourceExhausted, "full", &capstanv1.ErrorInfo{Reason: capstanv1.Reason_REASON_DISK_FULL, Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED})
	f.mu.Unlock()
	if _, stderr, status := shell(t, "", args...); status != 3 {
		t.Errorf("status %d: %s", status, stderr)
	}
	if _, stderr, status := shell(t, "", "bench", "--conns", "65"); status != 2 || !strings.Contains(stderr, "try: --conns 64") {
		t.Errorf("status %d: %s", status, stderr)
	}
}

// Every command explains itself with an example.
func TestHelp(t *testing.T) {
	p := &program{}
	root := p.rootCommand()
	for _, c := range root.Commands() {
		for _, c := range append(c.Commands(), c) {
			if c.Example == "" && c.Name() != "help" && c.Name() != "completion" {
				t.Errorf("%s has no example", c.CommandPath())
			}
		}
	}
	if stdout, _, status := shell(t, "", "put", "--help"); status != 0 || !strings.Contains(stdout, "capstan put cart:42 apple") {
		t.Errorf("status %d\n%s", status, stdout)
	}
	if stdout, _, status := shell(t, "", "completion", "bash"); status != 0 || !strings.Contains(stdout, "__start_capstan") {
		t.Errorf("status %d", status)
	}
	if stdout, _, status := shell(t, "", "version", "-o", "json"); status != 0 || !strings.Contains(stdout, `"protocol":"capstan.v1"`) || !strings.Contains(stdout, `"go":"`+runtime.Version()+`"`) {
		t.Errorf("status %d\n%s", status, stdout)
	}
}
