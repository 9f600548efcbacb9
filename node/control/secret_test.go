package control_test

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
)

func withSecret(c control.Command) control.Command {
	f := *c.Found
	f.Settings.Secret = bytes.Repeat([]byte{7}, control.SecretBytes)
	return control.Command{Found: &f}
}

func foundAs(id string, c control.Command) control.Command {
	f := *c.Found
	f.ClusterID = id
	return control.Command{Found: &f}
}

// One cluster has one key, every cluster another, and whoever knows only a
// cluster's id does not know the key.
func TestSessionKeys(t *testing.T) {
	if key := (&control.State{}).SessionKey(); key != nil {
		t.Fatalf("a key before the founding: %x", key)
	}
	seen := map[string]string{}
	for name, c := range map[string]control.Command{
		"no secret": found(2, 3, 3), "no secret, another id": foundAs("c-2", found(2, 3, 3)),
		"secret": withSecret(found(2, 3, 3)), "same secret, another id": foundAs("c-2", withSecret(found(2, 3, 3))),
	} {
		s := after(t, c)
		key := s.SessionKey()
		if len(key) != 32 {
			t.Errorf("%s: a key of %d bytes", name, len(key))
		}
		if other, taken := seen[string(key)]; taken {
			t.Errorf("%s has the key of %s", name, other)
		}
		seen[string(key)] = name

		data, err := control.EncodeSnapshot(s)
		if err != nil {
			t.Fatal(err)
		}
		restored, err := control.DecodeSnapshot(data)
		if err != nil || !bytes.Equal(restored.SessionKey(), key) {
			t.Errorf("%s: another key after a restart: %v", name, err)
		}
	}
}

// What an older program has written is read as it was, and founds no secret.
func TestAStateWithoutASecretIsRead(t *testing.T) {
	c, err := control.DecodeCommand([]byte(foundJSON))
	if err != nil || len(c.Found.Settings.Secret) != 0 {
		t.Fatalf("%+v, %v", c.Found, err)
	}
}

// A removed node keeps its places, is no member, and is removed once.
func TestRemovedNodes(t *testing.T) {
	s := young(t, place(partition.ReplicaSet{"n1-aaaa", "n2-bbbb", "n3-cccc"}, partition.ReplicaSet{"n2-bbbb"}),
		set("n3-cccc", control.Dead), removeNode("n3-cccc"))
	if _, ok := s.Replica(0, "n3-cccc"); !ok {
		t.Error("the removed node lost its place before another had it")
	}
	if got, want := s.Members(), []partition.NodeID{"n1-aaaa", "n2-bbbb"}; !reflect.DeepEqual(got, want) {
		t.Errorf("members %v, want %v", got, want)
	}
	if got, want := s.Removed(), []control.Removed{{Node: "n3-cccc", Epoch: s.Epoch}}; !reflect.DeepEqual(got, want) {
		t.Errorf("removed %v, want %v", got, want)
	}
	if next, result := control.Apply(s, removeNode("n3-cccc")); result.Err() != nil || next != s {
		t.Errorf("removed again: %+v", result)
	}
	s = young(t, set("n3-cccc", control.Draining), set("n3-cccc", control.Left))
	if got, want := s.Removed(), []control.Removed{{Node: "n3-cccc", Epoch: s.Epoch}}; !reflect.DeepEqual(got, want) {
		t.Errorf("a drained node that left: removed %v, want %v", got, want)
	}
	// Its name is free for another one.
	next, result := control.Apply(s, register(node("n3-dddd")))
	if holder, _ := next.Holder("n3"); result.Err() != nil || holder.ID != "n3-dddd" {
		t.Errorf("%+v, the name means %+v", result, holder)
	}
}
