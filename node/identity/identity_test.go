package identity

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

func open(t *testing.T, fsys vfs.FS, dir, name string) *Identity {
	t.Helper()
	id, err := Open(fsys, dir, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = id.Close() })
	return id
}

func put(t *testing.T, fsys vfs.FS, path, content string) {
	t.Helper()
	f, err := fsys.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, content); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestIdentityIsMadeOnce(t *testing.T) {
	for name, fsys := range map[string]vfs.FS{"memory": vfs.NewMem(), "disk": vfs.Default} {
		t.Run(name, func(t *testing.T) {
			dir := fsys.PathJoin(t.TempDir(), "a", "b")
			first := open(t, fsys, dir, "n2")
			if !nodeIDPattern.MatchString(string(first.NodeID())) || !strings.HasPrefix(string(first.NodeID()), "n2-") {
				t.Fatalf("node id %q", first.NodeID())
			}
			if first.NextStart() != 1 || first.Initialised() || first.ClusterID() != "" || first.Created().IsZero() {
				t.Fatalf("a first start: %+v", first.record)
			}
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			second := open(t, fsys, dir, "n2")
			if second.NodeID() != first.NodeID() || second.NextStart() != 1 || !second.Created().Equal(first.Created()) {
				t.Fatalf("a second start: %+v, first %+v", second.record, first.record)
			}
		})
	}
}

// Starts are numbered as the cluster is told of them, one at a time.
func TestStartsAreWrittenDown(t *testing.T) {
	fsys := vfs.NewMem()
	id := open(t, fsys, "d", "n1")
	reopen := func() {
		t.Helper()
		if err := id.Close(); err != nil {
			t.Fatal(err)
		}
		id = open(t, fsys, "d", "n1")
	}
	last := func(want Start, wantConfirmed bool) {
		t.Helper()
		if got, confirmed := id.Last(); got != want || confirmed != wantConfirmed {
			t.Fatalf("last %v, confirmed %v; want %v, %v", got, confirmed, want, wantConfirmed)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	last(Start{}, true)
	for _, bad := range []Start{{2, 7}, {0, 7}, {1, 0}} {
		if err := id.Attempt(bad); err == nil {
			t.Fatalf("attempted %v", bad)
		}
	}
	first, second := Start{1, 7}, Start{2, 8}
	if err := id.Confirm(first, "c1"); err == nil {
		t.Fatal("confirmed what was never attempted")
	}
	must(id.Attempt(first))
	must(id.Attempt(first))
	reopen()
	last(first, false)
	if err := id.Attempt(second); err == nil {
		t.Fatal("a second attempt without an answer to the first")
	}
	if err := id.Confirm(first, "C 1"); err == nil || id.Registered() != (Start{}) {
		t.Fatal("confirmed by a cluster of no name")
	}
	must(id.Confirm(first, "c1"))
	must(id.Confirm(first, "c1"))
	if err := id.Confirm(first, "c2"); !errors.Is(err, ErrOtherCluster) {
		t.Fatal(err)
	}
	reopen()
	last(first, true)
	if id.NextStart() != 2 || id.Registered() != first || id.ClusterID() != "c1" {
		t.Fatalf("%+v", id.record)
	}
	must(id.Attempt(second))
	if err := id.Confirm(first, "c1"); err == nil {
		t.Fatal("an old start was confirmed")
	}
	if id.Registered() != first {
		t.Fatal("an attempt changed what is registered")
	}
	reopen()
	last(second, false)
	must(id.Confirm(second, "c1"))
	last(second, true)
}

func TestClusterIsSetOnceAndKept(t *testing.T) {
	fsys := vfs.NewMem()
	id := open(t, fsys, "d", "n1")
	for _, bad := range []string{"", "A", "-a", "a b", strings.Repeat("a", 65)} {
		if err := id.SetCluster(bad); err == nil {
			t.Errorf("cluster id %q accepted", bad)
		}
	}
	if err := id.SetCluster("c1"); err != nil {
		t.Fatal(err)
	}
	if err := id.SetCluster("c1"); err != nil {
		t.Fatal("the same again:", err)
	}
	if err := id.SetCluster("c2"); !errors.Is(err, ErrOtherCluster) {
		t.Fatal("a second cluster:", err)
	}
	if err := id.Close(); err != nil {
		t.Fatal(err)
	}
	if err := id.SetCluster("c1"); !errors.Is(err, ErrClosed) {
		t.Fatal("after Close:", err)
	}
	again := open(t, fsys, "d", "n1")
	if !again.Initialised() || again.ClusterID() != "c1" {
		t.Fatalf("after a restart: %+v", again.record)
	}
}

func TestASecondOpenIsRefused(t *testing.T) {
	for name, fsys := range map[string]vfs.FS{"memory": vfs.NewMem(), "disk": vfs.Default} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			id := open(t, fsys, dir, "n1")
			if _, err := Open(fsys, dir, "n1"); !errors.Is(err, ErrInUse) {
				t.Fatal(err)
			}
			if err := id.Close(); err != nil {
				t.Fatal(err)
			}
			open(t, fsys, dir, "n1")
		})
	}
}

func TestWhatIsRefusedAndLeftAlone(t *testing.T) {
	good := `{"format":1,"node_id":"n1-k3f9","cluster_id":"c1","starts":4,"created":"2026-11-22T10:00:00Z"}`
	newer := `{"format":2,"node_id":"n1-k3f9","cluster_id":"c1","starts":4,"created":"2026-11-22T10:00:00Z",` +
		`"registered":{"start":3,"incarnation":71},"attempt":{"start":4,"incarnation":72}}`
	for _, test := range []struct {
		name, json string
		want       error
		text       string
	}{
		{"newer format", `{"format":3,"node_id":"n1-k3f9","shape":[1]}`, ErrNewerFormat, "format 3"},
		{"empty", ``, ErrCorrupt, ""},
		{"torn", good[:40], ErrCorrupt, ""},
		{"zeroes", strings.Repeat("\x00", 100), ErrCorrupt, ""},
		{"no format", `{"node_id":"n1-k3f9","starts":4}`, ErrCorrupt, ""},
		{"unknown field", strings.Replace(good, `"starts"`, `"extra":1,"starts"`, 1), ErrCorrupt, "extra"},
		{"trailing", good + `{}`, ErrCorrupt, ""},
		{"no node id", strings.Replace(good, "n1-k3f9", "", 1), ErrCorrupt, ""},
		{"never started", strings.Replace(good, `:4`, `:0`, 1), ErrCorrupt, ""},
		{"registered ahead", strings.Replace(newer, `:3,`, `:5,`, 1), ErrCorrupt, "registered start 5 of 4"},
		{"attempted behind", strings.Replace(newer, `"start":4`, `"start":3`, 1), ErrCorrupt, "attempted start 3 of 4"},
		{"no incarnation", strings.Replace(newer, `:71`, `:0`, 1), ErrCorrupt, "registered start"},
		{"bad cluster", strings.Replace(good, `"c1"`, `"C 1"`, 1), ErrCorrupt, ""},
		{"huge", good + strings.Repeat(" ", maxRecordBytes), ErrCorrupt, ""},
		{"other name", strings.Replace(good, "n1-k3f9", "n2-k3f9", 1), ErrOtherNode, "belongs to n2-k3f9"},
		{"longer name", strings.Replace(good, "n1-k3f9", "n1-a-k3f9", 1), ErrOtherNode, "belongs to n1-a-k3f9"},
	} {
		t.Run(test.name, func(t *testing.T) {
			fsys := vfs.NewMem()
			put(t, fsys, fileName, test.json)
			before := fsys.String()
			_, err := Open(fsys, "", "n1")
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Fatalf("got %v, want %v with %q", err, test.want, test.text)
			}
			after := strings.Replace(fsys.String(), "          0 LOCK\n", "", 1)
			if !strings.Contains(after, strings.TrimPrefix(before, "          /\n")) {
				t.Fatalf("changed:\n%s\n%s", before, fsys.String())
			}
		})
	}
	fsys := vfs.NewMem()
	put(t, fsys, fileName, good)
	if id := open(t, fsys, "", "n1"); id.NextStart() != 5 || id.ClusterID() != "c1" || id.Registered() != (Start{}) {
		t.Fatalf("%+v", id.record)
	}
	fsys = vfs.NewMem()
	put(t, fsys, fileName, newer)
	if id := open(t, fsys, "", "n1"); id.NextStart() != 5 || id.Registered() != (Start{3, 71}) {
		t.Fatalf("%+v", id.record)
	}
}

func TestADirectoryWithoutItsIdentityIsRefused(t *testing.T) {
	fsys := vfs.NewMem()
	if err := fsys.MkdirAll("d/log", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(fsys, "d", "n1"); !errors.Is(err, ErrIdentityLost) || !strings.Contains(err.Error(), "log") {
		t.Fatal(err)
	}
	// What a first start leaves when it is cut off, and what mkfs leaves, is not data.
	fsys = vfs.NewMem()
	if err := fsys.MkdirAll("d/lost+found", 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, fsys, "d/"+tempName, "{")
	put(t, fsys, "d/"+lockName, "")
	open(t, fsys, "d", "n1")
}

// A refusal outlives restarts: a directory that was refused once must not be let
// in because it was started once more.
func TestARefusalIsKept(t *testing.T) {
	fsys := vfs.NewMem()
	id := open(t, fsys, "d", "n1")
	first := id.Refuse("n2-abcd", "an older copy")
	if !errors.Is(first, ErrRefused) || !strings.Contains(first.Error(), "an older copy (n2-abcd said so at ") {
		t.Fatal(first)
	}
	if again := id.Refuse("n3-abcd", "another reason"); again.Error() != first.Error() {
		t.Fatalf("a second refusal replaced the first: %v", again)
	}
	if err := id.Close(); err != nil {
		t.Fatal(err)
	}
	before := fsys.String()
	for range 2 {
		if _, err := Open(fsys, "d", "n1"); !errors.Is(err, ErrRefused) || err.Error() != first.Error() {
			t.Fatalf("a later start: %v, want %v", err, first)
		}
	}
	if fsys.String() != before {
		t.Fatal("a refused start changed the directory")
	}
}

// A refusal that cannot be stored still ends this start.
func TestARefusalOnAFailingDisk(t *testing.T) {
	failing := false
	fsys := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if failing && op.Kind == errorfs.OpFileSync {
			return errorfs.ErrInjected
		}
		return nil
	}))
	id := open(t, fsys, "d", "n1")
	failing = true
	if err := id.Refuse("n2-abcd", strings.Repeat("é", maxReasonBytes)); !errors.Is(err, ErrRefused) || !errors.Is(err, errorfs.ErrInjected) {
		t.Fatal(err)
	}
}

func TestBadNamesAreRefused(t *testing.T) {
	for _, name := range []string{"", "-", "a-", "-a", "A", "a_b", "a/b", strings.Repeat("a", 33)} {
		if _, err := Open(vfs.NewMem(), "d", name); err == nil {
			t.Errorf("name %q accepted", name)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte(`{"format":1,"node_id":"n1-k3f9","cluster_id":"c1","starts":4,"created":"2026-11-22T10:00:00Z"}`))
	f.Add([]byte(`{"format":3}`))
	f.Add([]byte(`{"format":2,"node_id":"n1-k3f9","cluster_id":"c1","starts":4,"created":"2026-11-22T10:00:00Z","registered":{"start":3,"incarnation":71},"attempt":{"start":4,"incarnation":72}}`))
	f.Add([]byte(`{"format":2,"node_id":"n1-k3f9","cluster_id":"c1","starts":4,"created":"2026-11-22T10:00:00Z","refused":{"reason":"older","by":"n2-aaaa","at":"2026-11-22T10:00:00Z"}}`))
	f.Add([]byte(`{"format":1,"node_id":"n1-k3f9","cluster_id":"","starts":18446744073709551615,"created":"0001-01-01T00:00:00Z"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord(data)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewerFormat) {
				t.Fatal("untyped:", err)
			}
			return
		}
		again, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := decodeRecord(again)
		if err != nil || back.NodeID != r.NodeID || back.Cluster != r.Cluster || back.Starts != r.Starts || !back.Created.Equal(r.Created) {
			t.Fatalf("%+v came back as %+v, %v", r, back, err)
		}
	})
}

// A node keeps the name of its cluster: under another one it would go on alone.
func TestLabelIsKept(t *testing.T) {
	fsys := vfs.NewMem()
	id, err := Open(fsys, "data", "n1")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := id.BindLabel("capstan"); err != nil {
			t.Fatal(err)
		}
	}
	if err := id.SetCluster("c-1"); err != nil {
		t.Fatal(err)
	}
	if err := id.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(fsys, "data", "n1")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.BindLabel("another"); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("another name: %v", err)
	}
	if err := again.BindLabel("capstan"); err != nil || again.ClusterID() != "c-1" {
		t.Errorf("its own name: %v, cluster %s", err, again.ClusterID())
	}
}
