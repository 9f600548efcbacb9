package storage

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/storage/hlc"
)

// modelKeys are few, so that they meet each other, and awkward.
var modelKeys = []string{"a", "a\x00", "a\x00b", "b", "\x00", "\xff", "\xff\xff\xff", "{t}x", "é", string(make([]byte, MaxKeyBytes))}

type modelValue struct {
	version   Version
	tombstone bool
	value     string
}

// modelReplica is the contract as a map.
type modelReplica struct {
	applied uint64
	keys    map[string]modelValue
}

func (m *modelReplica) clone() *modelReplica {
	c := &modelReplica{applied: m.applied, keys: map[string]modelValue{}}
	for k, v := range m.keys {
		c.keys[k] = v
	}
	return c
}

func (m *modelReplica) apply(index uint64, c Command) CommandResult {
	before, found := m.keys[string(c.Key)]
	present := found && !before.tombstone
	looks := c.Kind == CommandDelete || c.Condition.Kind != ConditionNone
	result := CommandResult{Existed: present && looks}
	holds := true
	switch c.Condition.Kind {
	case ConditionAbsent:
		holds = !present
	case ConditionPresent:
		holds = present
	case ConditionVersion:
		holds = present && before.version == c.Condition.Version
	}
	if !holds {
		result.ConditionFailed = true
		if present {
			result.Current = &before.version
		}
		return result
	}
	result.Version = Version{Index: index, Timestamp: c.Timestamp, Node: c.Node}
	m.keys[string(c.Key)] = modelValue{version: result.Version, tombstone: c.Kind == CommandDelete, value: string(c.Value)}
	return result
}

func (m *modelReplica) scan(o ScanOptions) (keys []string) {
	for k, v := range m.keys {
		if !v.tombstone && k >= string(o.Start) && (len(o.End) == 0 || k < string(o.End)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

func sameResult(a, b CommandResult) bool {
	return a.Version == b.Version && a.Existed == b.Existed && a.ConditionFailed == b.ConditionFailed &&
		(a.Current == nil) == (b.Current == nil) && (a.Current == nil || *a.Current == *b.Current)
}

// checkModel compares everything that can be read.
func checkModel(t fataler, r *ReplicaState, m *modelReplica) {
	t.Helper()
	if index, _ := r.Applied(); index != m.applied {
		t.Fatalf("applied %d, want %d", index, m.applied)
	}
	for _, k := range modelKeys {
		got, found, err := r.Get([]byte(k))
		ok(t, err)
		want, there := m.keys[k]
		if found != there || found && (got.Version != want.version || got.Tombstone != want.tombstone ||
			string(got.Bytes) != want.value || got.LinearizableIndex != want.version.Index || !got.Linearizable || got.Base != 0) {
			t.Fatalf("%q is %+v, %v; want %+v, %v", k, got, found, want, there)
		}
	}
	v, err := r.View()
	ok(t, err)
	checkScan(t, v, m, ScanOptions{})
	ok(t, v.Close())
}

// checkScan reads a view in pages and compares all of it with the model.
func checkScan(t fataler, v *ReplicaView, m *modelReplica, o ScanOptions) {
	t.Helper()
	want := m.scan(o)
	for {
		page, err := v.Scan(o)
		ok(t, err)
		if o.Limit > 0 && len(page.Entries) > o.Limit {
			t.Fatalf("page of %d entries, limit %d", len(page.Entries), o.Limit)
		}
		for _, e := range page.Entries {
			if len(want) == 0 || string(e.Key) != want[0] || e.Version != m.keys[want[0]].version {
				t.Fatalf("scan %+v gives %q %v, want %q of %+v", o, e.Key, e.Version, want, m.keys)
			}
			if wantValue := m.keys[want[0]].value; o.KeysOnly && e.Value != nil || !o.KeysOnly && string(e.Value) != wantValue {
				t.Fatalf("scan %+v gives %q = %q", o, e.Key, e.Value)
			}
			want = want[1:]
		}
		if !page.More {
			break
		}
		o.Start = page.Next
	}
	if len(want) != 0 {
		t.Fatalf("scan %+v misses %q", o, want)
	}
}

func drawModelCommand(t *rapid.T, m *modelReplica) Command {
	key := rapid.SampledFrom(modelKeys).Draw(t, "key")
	c := put(key, rapid.StringN(0, 5, 20).Draw(t, "value"))
	if rapid.IntRange(0, 3).Draw(t, "delete") == 0 {
		c = del(key)
	}
	c.Timestamp = hlc.Timestamp(rapid.Uint64Range(1, 1000).Draw(t, "timestamp"))
	c.Condition.Kind = ConditionKind(rapid.IntRange(0, 3).Draw(t, "condition"))
	if c.Condition.Kind == ConditionVersion {
		c.Condition.Version = m.keys[key].version // often right, and of a tombstone too
		switch rapid.IntRange(0, 7).Draw(t, "version off by") {
		case 0:
			c.Condition.Version.Index++
		case 1:
			c.Condition.Version.Timestamp++
		case 2:
			c.Condition.Version.Node += "x"
		}
	}
	return c
}

// Two replicas in one database, a map for each: whatever is applied, read,
// restarted, or carried from one to the other, they agree.
func TestStateAgreesWithAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mem := vfs.NewMem()
		s := openState(t, mem)
		defer func() { ok(t, s.Close()) }()
		names := []Replica{{1, 1}, {1, 2}}
		replicas := []*ReplicaState{replicaOf(t, s, names[0]), replicaOf(t, s, names[1])}
		models := []*modelReplica{{keys: map[string]modelValue{}}, {keys: map[string]modelValue{}}}
		which := rapid.IntRange(0, 1)
		t.Repeat(map[string]func(*rapid.T){
			"apply": func(t *rapid.T) {
				i := which.Draw(t, "replica")
				r, m := replicas[i], models[i]
				var entries []ApplyEntry
				var want [][]CommandResult
				for range rapid.IntRange(1, 3).Draw(t, "entries") {
					m.applied += uint64(rapid.IntRange(1, 3).Draw(t, "gap"))
					var commands []Command
					var results []CommandResult
					for range rapid.IntRange(0, 5).Draw(t, "commands") {
						c := drawModelCommand(t, m)
						commands = append(commands, c)
						results = append(results, m.apply(m.applied, c))
					}
					entries = append(entries, entry(t, m.applied, commands...))
					want = append(want, results)
				}
				got, err := r.Apply(entries)
				ok(t, err)
				for i := range want {
					if !slices.EqualFunc(got[i], want[i], sameResult) {
						t.Fatalf("results %+v, want %+v", got[i], want[i])
					}
				}
				again, err := r.Apply(entries)
				ok(t, err)
				for _, results := range again {
					if results != nil {
						t.Fatalf("taken up twice: %+v", results)
					}
				}
			},
			"view": func(t *rapid.T) {
				i := which.Draw(t, "replica")
				v, err := replicas[i].View()
				ok(t, err)
				then := models[i].clone()
				models[i].applied++
				c := drawModelCommand(t, models[i])
				models[i].apply(models[i].applied, c)
				apply(t, replicas[i], models[i].applied, c)
				if index, _ := v.Applied(); index != then.applied {
					t.Fatalf("view at %d, want %d", index, then.applied)
				}
				o := ScanOptions{Limit: rapid.IntRange(0, 3).Draw(t, "limit"), KeysOnly: rapid.Bool().Draw(t, "keys only")}
				if rapid.Bool().Draw(t, "bounded") {
					o.Start = []byte(rapid.SampledFrom(modelKeys).Draw(t, "start"))
					o.End = PrefixEnd([]byte(rapid.SampledFrom(modelKeys).Draw(t, "end")))
				}
				checkScan(t, v, then, o)
				ok(t, v.Close())
			},
			"restart": func(t *rapid.T) {
				ok(t, s.Close())
				s = openState(t, mem)
				replicas[0], replicas[1] = replicaOf(t, s, names[0]), replicaOf(t, s, names[1])
			},
			"flush": func(t *rapid.T) { ok(t, s.db.Flush()) },
			"transfer": func(t *rapid.T) {
				i := which.Draw(t, "from")
				ok(t, install(replicas[1-i], bytes.NewReader(streamOf(t, replicas[i]))))
				if models[i].applied > models[1-i].applied {
					models[1-i] = models[i].clone()
					if dump(t, replicas[0]) != dump(t, replicas[1]) {
						t.Fatal("the two differ after a transfer")
					}
				}
			},
			"destroy": func(t *rapid.T) {
				i := which.Draw(t, "replica")
				ok(t, s.Destroy(names[i]))
				names[i].Generation += 2
				replicas[i] = replicaOf(t, s, names[i])
				models[i] = &modelReplica{keys: map[string]modelValue{}}
			},
			"": func(t *rapid.T) {
				for i := range replicas {
					checkModel(t, replicas[i], models[i])
				}
			},
		})
	})
}

// A scan of many tombstones gives its caller the word back in between.
func TestScanPagesAreBounded(t *testing.T) {
	r := openReplica(t)
	index := uint64(0)
	for i := 0; i < maxScanPageSteps+100; {
		var commands []Command
		for range 500 {
			commands = append(commands, del(fmt.Sprintf("dead%06d", i)))
			i++
		}
		index++
		apply(t, r, index, commands...)
	}
	apply(t, r, index+1, put("live", "x"))
	v, err := r.View()
	ok(t, err)
	defer func() { ok(t, v.Close()) }()
	page, err := v.Scan(ScanOptions{})
	ok(t, err)
	if !page.More || len(page.Entries) != 0 {
		t.Fatalf("first page %+v", page)
	}
	page, err = v.Scan(ScanOptions{Start: page.Next})
	ok(t, err)
	if page.More || len(page.Entries) != 1 {
		t.Fatalf("second page %+v", page)
	}
	// Large values end a page too, and one above the bound still goes out.
	big := string(make([]byte, maxScanPageBytes+1))
	apply(t, r, index+2, put("live1", big), put("live2", big))
	page, err = r.Scan(ScanOptions{Start: []byte("live1")})
	ok(t, err)
	if !page.More || len(page.Entries) != 1 || string(page.Next) != "live2" {
		t.Fatalf("page of large values: %d entries, next %q", len(page.Entries), page.Next)
	}
	if _, err := r.Scan(ScanOptions{Limit: -1}); err == nil {
		t.Error("a negative limit was taken")
	}
}
