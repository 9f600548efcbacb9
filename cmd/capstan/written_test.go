package main

import (
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// What a tentative write's answer says about where the write is.
func TestTentativeWrites(t *testing.T) {
	for name, test := range map[string]struct {
		args     []string
		replicas []string
		want     string
		request  proto.Message
	}{
		"put":       {[]string{"put", "--ap", "cart:42", "pear"}, []string{"n1", "n2", "n3"}, "1 of 3 replicas", &capstanv1.PutRequest{Key: []byte("cart:42"), Value: []byte("pear"), Consistency: 3}},
		"two":       {[]string{"put", "--ap", "--acks", "2", "k", "v"}, []string{"n1-k3f9", "n2-p7wd", "n3-aaaa"}, "2 of 3 replicas", &capstanv1.PutRequest{Key: []byte("k"), Value: []byte("v"), Consistency: 3, Acks: 2}},
		"alone":     {[]string{"put", "--ap", "k", "v"}, []string{"n1"}, "1 of 1 replica", nil},
		"a hint":    {[]string{"put", "--consistency", "eventual", "k", "v"}, []string{"n2", "n3", "n4"}, "1 node", nil},
		"two hints": {[]string{"put", "--ap", "--acks", "2", "k", "v"}, []string{"n2", "n3", "n4"}, "2 nodes", nil},
		"delete":    {[]string{"delete", "--ap", "k"}, []string{"n1", "n2", "n3"}, "1 of 3 replicas", &capstanv1.DeleteRequest{Key: []byte("k"), Consistency: 3}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			v := &capstanv1.Version{Timestamp: 1, Node: "n1-k3f9"}
			f.put = &capstanv1.PutResponse{Version: v, Receipt: "wr_9Qm2xT", ServedBy: "n1"}
			f.delete = &capstanv1.DeleteResponse{Version: v, Receipt: "wr_9Qm2xT", ServedBy: "n1", Existed: nil}
			f.locate.Replicas = test.replicas
			stdout, stderr, status := shell(t, "", append(test.args, "--endpoints", f.url)...)
			if want := "tentative   receipt wr_9Qm2xT  on disk at " + test.want + "  by n1\n"; stdout != want || stderr != "" || status != 0 {
				t.Errorf("got %q, %q, %d, want %q", stdout, stderr, status, want)
			}
			if test.request != nil && !proto.Equal(f.sent(test.request), test.request) {
				t.Errorf("sent %v", f.sent(test.request))
			}
		})
	}
}

// A write is done though nobody can say any more where its replicas are.
func TestTentativeWriteWithoutPlace(t *testing.T) {
	f := newFake(t)
	f.put = &capstanv1.PutResponse{Version: &capstanv1.Version{Timestamp: 1, Node: "n1-k3f9"}, Receipt: "wr_9Qm2xT", ServedBy: "n1"}
	f.failLocate = failure(connect.CodeUnavailable, "this node does not belong to a cluster yet", &capstanv1.ErrorInfo{Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED})
	stdout, _, status := shell(t, "", "put", "--ap", "--acks", "2", "k", "v", "--via", f.url)
	if want := "tentative   receipt wr_9Qm2xT  on disk at 2 nodes  by n1\n"; stdout != want || status != 0 {
		t.Errorf("got %q, %d, want %q", stdout, status, want)
	}
}

// With -v a tentative write says what it had heard of; a committed one has no
// more to say.
func TestVerboseWrites(t *testing.T) {
	f := newFake(t)
	f.put = &capstanv1.PutResponse{Version: &capstanv1.Version{Timestamp: 1, Node: "n1-k3f9"}, Receipt: "wr_9Qm2xT", ServedBy: "n1", Base: 12}
	stdout, stderr, status := shell(t, "", "put", "--ap", "-v", "k", "v", "--via", f.url)
	if want := "tentative 0-1-n1-k3f9, had heard of the partition's log up to 12\n"; stderr != want || stdout == "" || status != 0 {
		t.Errorf("got %q, %q, %d, want %q", stdout, stderr, status, want)
	}
	if _, stderr, status := shell(t, "", "delete", "-v", "k", "--via", f.url); stderr != "" || status != 0 {
		t.Errorf("got %q, %d", stderr, status)
	}
}
