package control_test

import (
	"strings"
	"testing"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
)

const foundJSON = `{"found":{"cluster_id":"c-1","settings":{"partitions":2,"replication_factor":3,"bootstrap_expect":3,"created_unix_ms":1789000000000}}}`

func TestCommandsAreReadStrictly(t *testing.T) {
	if c, err := control.DecodeCommand([]byte(foundJSON)); err != nil || c.Found == nil || c.Found.ClusterID != "c-1" {
		t.Fatalf("%v, %v", c, err)
	}
	for name, data := range map[string]string{
		"empty":            ``,
		"null":             `null`,
		"no command":       `{}`,
		"two commands":     strings.TrimSuffix(foundJSON, "}") + `,"place":{"assignment":null}}`,
		"an unknown one":   `{"fund":{}}`,
		"an unknown field": strings.Replace(foundJSON, `"cluster_id"`, `"color":1,"cluster_id"`, 1),
		"another case":     strings.Replace(foundJSON, `"cluster_id"`, `"Cluster_ID"`, 1),
		"a missing field":  strings.Replace(foundJSON, `"cluster_id":"c-1",`, ``, 1),
		"a repeated field": strings.Replace(foundJSON, `"cluster_id":"c-1",`, `"cluster_id":"c-0","cluster_id":"c-1",`, 1),
		"a wrong type":     strings.Replace(foundJSON, `"c-1"`, `1`, 1),
		"something after":  foundJSON + `{}`,
		"white space":      foundJSON + "\n",
		"cut short":        foundJSON[:len(foundJSON)-1],
		"a huge one":       `{"place":{"assignment":[` + strings.Repeat(`["n"],`, control.MaxCommandBytes/6) + `["n"]]}}`,
		"another encoding": "{\"found\":{\"cluster_id\":\"\xff\"}}",
	} {
		if c, err := control.DecodeCommand([]byte(data)); err == nil {
			t.Errorf("%s was read as %s", name, c)
		}
	}
}

func TestWhatCouldNotBeReadIsNotWritten(t *testing.T) {
	n := node("n1-aaaa")
	n.Zone = "\xff"
	for _, c := range []control.Command{{}, register(n)} {
		if data, err := control.EncodeCommand(c); err == nil {
			t.Errorf("%s was written as %s", c, data)
		}
	}
}

func TestTheLongestPlacementFits(t *testing.T) {
	id := partition.NodeID(strings.Repeat("n", 64))
	sets := make([]partition.ReplicaSet, partition.MaxCount)
	for p := range sets {
		for range control.MaxReplicationFactor {
			sets[p] = append(sets[p], id)
		}
	}
	if _, err := control.EncodeCommand(place(sets...)); err != nil {
		t.Fatal(err)
	}
}

func TestSnapshotsAreReadStrictly(t *testing.T) {
	s := young(t, place(partition.ReplicaSet{"n1-aaaa", "n2-bbbb"}, partition.ReplicaSet{"n3-cccc"}))
	data, err := control.EncodeSnapshot(s)
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
	for name, change := range map[string][2]string{
		"a newer version":      {`"version":2`, `"version":3`},
		"no version":           {`"version":2,`, ``},
		"an unknown field":     {`"version":2`, `"version":2,"color":1`},
		"an unknown state":     {`"alive"`, `"resting"`},
		"a stranger's replica": {`"node":"n1-aaaa","generation"`, `"node":"n9-zzzz","generation"`},
		"a future generation":  {`"generation":1`, `"generation":9`},
		"two on one node":      {`"node":"n2-bbbb","generation"`, `"node":"n1-aaaa","generation"`},
		"no cluster id":        {`"cluster_id":"c-1"`, `"cluster_id":""`},
		"nodes out of order":   {`"id":"n1-aaaa","name":"n1"`, `"id":"n4-aaaa","name":"n4"`},
		"removed and alive":    {`"state":"alive"`, `"state":"alive","removed_epoch":1`},
		"removed in no epoch":  {`"state":"alive"`, `"state":"left","removed_epoch":99`},
		"an empty secret":      {`"created_unix_ms":1789000000000`, `"created_unix_ms":1789000000000,"secret":""`},
		"a short secret":       {`"created_unix_ms":1789000000000`, `"created_unix_ms":1789000000000,"secret":"c2hvcnQ="`},
		"partitions missing":   {`"settings":{"partitions":2`, `"settings":{"partitions":4`},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if bad == good {
			t.Fatalf("%s: nothing to change in %s", name, good)
		}
		if _, err := control.DecodeSnapshot([]byte(bad)); err == nil {
			t.Errorf("%s was read", name)
		}
	}
	for _, bad := range []string{"", "null", "{}", `{"version":2}`, `{"version":2,"state":null}`, `{"version":0}`, good + good, good[1:]} {
		if _, err := control.DecodeSnapshot([]byte(bad)); err == nil {
			t.Errorf("read %q", bad)
		}
	}
}

func FuzzDecodeCommand(f *testing.F) {
	f.Add([]byte(foundJSON))
	for _, c := range []control.Command{register(node("n1-aaaa")), set("n1-aaaa", control.Dead), place(partition.ReplicaSet{"n1-aaaa"}, partition.ReplicaSet{"n2-bbbb"}),
		add(0, "n1-aaaa", 2), promote(0, "n1-aaaa", 2), remove(1, "n1-aaaa", 1), removeNode("n2-bbbb"), withSecret(found(2, 3, 3))} {
		data, err := control.EncodeCommand(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := control.DecodeCommand(data)
		if err != nil {
			return
		}
		if again, err := control.EncodeCommand(c); err != nil || string(again) != string(data) {
			t.Fatalf("%q became %q, %v", data, again, err)
		}
		s := young(t, place(partition.ReplicaSet{"n1-aaaa", "n2-bbbb"}, partition.ReplicaSet{"n3-cccc"}))
		for _, s := range []*control.State{{}, young(t), s} {
			next, _ := control.Apply(s, c)
			if err := next.Check(); err != nil {
				t.Fatalf("after %s: %v", c, err)
			}
		}
	})
}

func FuzzDecodeSnapshot(f *testing.F) {
	add := func(s *control.State) {
		data, err := control.EncodeSnapshot(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	s := &control.State{}
	add(s)
	for _, c := range []control.Command{found(2, 2, 1), register(node("n1-aaaa")), place(partition.ReplicaSet{"n1-aaaa"}, partition.ReplicaSet{"n1-aaaa"})} {
		s, _ = control.Apply(s, c)
		add(s)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := control.DecodeSnapshot(data)
		if err != nil {
			return
		}
		if again, err := control.EncodeSnapshot(s); err != nil || string(again) != string(data) {
			t.Fatalf("%q became %q, %v", data, again, err)
		}
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		alive := map[partition.NodeID]bool{}
		for i, n := range s.Nodes {
			alive[n.ID] = i%2 == 0
		}
		control.Next(control.Observed{State: s, Alive: alive, BootstrapExpect: 1})
	})
}
