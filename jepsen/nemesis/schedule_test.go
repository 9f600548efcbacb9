package nemesis

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/cluster"
	"github.com/capstan-kv/capstan/jepsen/lab"
)

func TestCheck(t *testing.T) {
	partition := 1
	good := func() Schedule {
		return Schedule{
			{At: 1, For: 5, Kind: "cut-one", Rule: cut, Links: between([]string{"n1"}, []string{"n2"})},
			{At: 2, For: 1, Kind: "kill-one", Nodes: []string{"n1"}},
			{At: 2, For: 9, Kind: "clock-jump", Nodes: []string{"n1"}, Bend: cluster.Control{ClockOffsetMillis: 1}},
			{At: 3, For: 9, Kind: "one-way-leader", Rule: cut, Leader: &partition, Way: Inward},
			{At: 4, For: 9, Kind: "stutter", Leader: &partition, On: time.Second, Off: time.Second},
			{At: 5, For: 9, Kind: "isolate", Rule: cut, Links: between([]string{"n1"}, []string{lab.Clients})},
		}
	}
	if err := good().Check(nodes(2), 2); err != nil {
		t.Error(err)
	}
	none, two := -1, 2
	for what, change := range map[string]func(Schedule){
		"order": func(s Schedule) { s[0].At = 3 }, "length": func(s Schedule) { s[1].For = 0 }, "early": func(s Schedule) { s[0].At = -1 },
		"overflow": func(s Schedule) { s[1].For = 1<<63 - 1 }, "kind": func(s Schedule) { s[0].Kind = "none" },
		"rule": func(s Schedule) { s[3].Rule.Loss = 2 }, "no rule": func(s Schedule) { s[0].Rule = lab.Rule{} }, "a rule": func(s Schedule) { s[1].Rule = cut },
		"links": func(s Schedule) { s[0].Links = nil }, "links of nodes": func(s Schedule) { s[1].Links = s[0].Links }, "nodes of links": func(s Schedule) { s[0].Nodes = s[1].Nodes },
		"self": func(s Schedule) { s[0].Links[0].To = "n1" }, "link": func(s Schedule) { s[0].Links[0].To = "n3" }, "link twice": func(s Schedule) { s[0].Links[1] = s[0].Links[0] },
		"one way": func(s Schedule) { s[0].Links = s[0].Links[:1] }, "no cut": func(s Schedule) { s[0].Rule = lab.Rule{Loss: 0.5} },
		"nodes": func(s Schedule) { s[1].Nodes = nil }, "node": func(s Schedule) { s[1].Nodes[0] = "n3" }, "node twice": func(s Schedule) { s[1].Nodes = []string{"n1", "n1"} },
		"clients are no node": func(s Schedule) { s[1].Nodes[0] = lab.Clients },
		"no bend":             func(s Schedule) { s[2].Bend = cluster.Control{} }, "a bend": func(s Schedule) { s[1].Bend.DiskFull = true }, "bend": func(s Schedule) { s[2].Bend.SyncDelayMillis = -1 },
		"far": func(s Schedule) { s[2].Bend.ClockOffsetMillis = -1 << 63 }, "leader": func(s Schedule) { s[4].Leader = &two }, "no leader": func(s Schedule) { s[4].Leader = &none },
		"leader and nodes": func(s Schedule) { s[4].Nodes = nodes(1) }, "leader of bends": func(s Schedule) { s[2].Nodes, s[2].Leader = nil, &partition },
		"way": func(s Schedule) { s[3].Way = "up" }, "way of a pause": func(s Schedule) { s[4].Way = Inward },
		"way of links": func(s Schedule) { s[0].Way = Inward }, "fast": func(s Schedule) { s[4].Off = 1 }, "off only": func(s Schedule) { s[4].On = 0 },
		"on and off": func(s Schedule) { s[1].On, s[1].Off = time.Second, time.Second },
	} {
		bad := good()
		change(bad)
		if bad.Check(nodes(2), 2) == nil {
			t.Errorf("taken: %s", what)
		}
	}
	if make(Schedule, MaxEvents+1).Check(nodes(2), 2) == nil {
		t.Error("taken: too many")
	}
}

func TestReadHasBounds(t *testing.T) {
	if s, err := Read(strings.NewReader(strings.Repeat("{}", MaxEvents+1))); err == nil {
		t.Errorf("%d events are read", len(s))
	}
	if s, err := Read(strings.NewReader(strings.Repeat(" ", maxBytes+1))); err == nil {
		t.Errorf("%d events in too many bytes are read", len(s))
	}
	if _, err := Read(strings.NewReader(`{"at":1,"until":3}`)); err == nil {
		t.Error("a field that is not known is read")
	}
}

func FuzzRead(f *testing.F) {
	f.Add(`{"at":1,"for":2,"kind":"cut-one","rule":{"cut":true},"links":[{"from":"n1","to":"n2"},{"from":"n2","to":"n1"}]}`)
	f.Add(`{"at":1,"for":2,"kind":"kill-one","nodes":["n1"]}{"at":1,"for":20000000,"kind":"stutter","leader":1,"on":10000000,"off":10000000}`)
	f.Add(`{"at":1,"for":2,"kind":"one-way-leader","rule":{"cut":true},"leader":0,"way":"in"}{"at":2,"for":2,"kind":"clock-jump","nodes":["n1"],"bend":{"clock_offset_ms":-5}}`)
	f.Add(`{"at":1} {"loss":`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Read(strings.NewReader(text))
		if err != nil || s.Check(nodes(3), 2) != nil {
			return
		}
		for _, e := range s {
			if strings.Contains(e.String(), "\n") {
				t.Fatalf("more than a line: %s", e)
			}
		}
		var printed bytes.Buffer
		if err := s.Write(&printed); err != nil {
			t.Fatal(err)
		}
		back, err := Read(&printed)
		if err != nil {
			t.Fatal(err)
		}
		for i := range s { // an empty list comes back as none
			if len(s[i].Links) == 0 {
				s[i].Links = nil
			}
			if len(s[i].Nodes) == 0 {
				s[i].Nodes = nil
			}
		}
		if !reflect.DeepEqual(back, s) {
			t.Fatalf("%v, then %v", s, back)
		}
	})
}
