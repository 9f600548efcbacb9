package client_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// fakeSessions gives tokens that hold, in words, the numbers of the calls that a
// session is made of: each call is one more. The cluster's lock guards it.
type fakeSessions struct {
	name    string // of the cluster; tokens of another are refused
	calls   int
	padding int        // bytes added to each token
	sent    [][]string // the tokens that each call came with
	merges  int
}

const tokenLimit = 6 << 10

// step is one call of a session.
func (f *fakeSessions) step(session string) (string, error) {
	if f == nil {
		return "", nil
	}
	f.calls++
	return f.token(session, f.calls)
}

// batch is one call if it has operations, else it only merges.
func (f *fakeSessions) batch(session string, ops int) (string, error) {
	if f == nil {
		return "", nil
	}
	if ops > 0 {
		return f.step(session)
	}
	f.merges++
	return f.token(session)
}

func (f *fakeSessions) token(session string, more ...int) (string, error) {
	tokens, err := f.parse(session)
	if err != nil {
		return "", err
	}
	has := map[string]bool{}
	for _, token := range tokens {
		for word := range strings.SplitSeq(strings.TrimRight(token, "~"), "_") {
			has[word] = true
		}
	}
	for _, n := range more {
		has[fmt.Sprint(n)] = true
	}
	delete(has, f.name)
	token := f.name + "_" + strings.Join(slices.Sorted(maps.Keys(has)), "_")
	return token + strings.Repeat("~", f.padding), nil
}

func (f *fakeSessions) parse(session string) ([]string, error) {
	var tokens []string
	if session != "" {
		tokens = strings.Split(session, ".")
	}
	for _, token := range tokens {
		if !strings.HasPrefix(token, f.name+"_") || len(session) > tokenLimit {
			return nil, failure(connect.CodeInvalidArgument, fmt.Sprintf("token of %d bytes is none of this cluster's", len(session)), notApplied(capstanv1.Reason_REASON_BAD_TOKEN))
		}
	}
	f.sent = append(f.sent, tokens)
	return tokens, nil
}

// holds reports whether a session is made of those calls, and no others.
func holds(session string, calls ...int) bool {
	has, want := map[string]bool{}, map[string]bool{}
	for token := range strings.SplitSeq(session, ".") {
		for i, word := range strings.Split(strings.TrimRight(token, "~"), "_") {
			if i > 0 && word != "" {
				has[word] = true
			}
		}
	}
	for _, n := range calls {
		want[fmt.Sprint(n)] = true
	}
	return maps.Equal(has, want)
}

// last is the session that the last call came with.
func (c *fakeCluster) last() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.sessions.sent[len(c.sessions.sent)-1], ".")
}
