package client

import (
	"maps"
	"slices"
	"strings"
	"sync"
)

const (
	// maxToken is the protocol's bound on a session token, in bytes; of several
	// tokens sent as one, all of them together.
	maxToken = 6 << 10
	// tokenSeparator stands between session tokens that are sent as one.
	tokenSeparator = "."
)

// everywhere is the scope of a call that is not about one known partition.
const everywhere = -1

// jar holds the tokens whose union is the session of a client.
//
// A call sends the tokens there are, and its answer's token replaces them: it
// holds their past and the call's own. Calls at the same time each answer with
// a token of their own, so there may be several; the next call's answer takes
// the place of all of them.
//
// Tokens are kept by partition: what a session promises, it promises for each
// key, so a call about one partition needs no more than that partition's past.
// That keeps tokens short, and few where many calls run at once. Tokens of calls
// about no known partition concern all.
type jar struct {
	mu     sync.Mutex
	life   uint64            // how often it was emptied
	number uint64            // of the newest token in global
	global []globalToken     // of the scope everywhere, oldest first
	parts  map[int]*jarScope // by partition
}

type globalToken struct {
	token  string
	number uint64
}

// jarScope is what calls about one partition send: its own tokens, and copies
// of the global ones up to a number.
type jarScope struct {
	tokens []string
	copied uint64
}

// take gives the tokens for a call of that scope, and the jar's life.
func (j *jar) take(scope int) (tokens []string, life uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if scope == everywhere {
		var all []string
		for _, g := range j.global {
			all = append(all, g.token)
		}
		for _, part := range j.parts {
			all = append(all, part.tokens...)
		}
		slices.Sort(all) // map order is no order; the same session is sent in the same words
		return slices.Compact(all), j.life
	}
	return slices.Clone(j.part(scope).tokens), j.life
}

// part is the scope of one partition, up to date with the global tokens.
func (j *jar) part(partition int) *jarScope {
	part := j.parts[partition]
	if part == nil {
		if j.parts == nil {
			j.parts = make(map[int]*jarScope)
		}
		part = &jarScope{}
		j.parts[partition] = part
	}
	for _, g := range j.global {
		if g.number > part.copied && !slices.Contains(part.tokens, g.token) {
			part.tokens = append(part.tokens, g.token)
		}
	}
	part.copied = j.number
	return part
}

// replace puts token, unless it is empty, in the place of those that were sent
// for it.
func (j *jar) replace(scope int, sent []string, token string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	wasSent := func(token string) bool { return slices.Contains(sent, token) }
	if scope != everywhere {
		part := j.part(scope)
		part.tokens = slices.DeleteFunc(part.tokens, wasSent)
		if token != "" && !slices.Contains(part.tokens, token) {
			part.tokens = append(part.tokens, token)
		}
		return
	}
	for _, part := range j.parts {
		part.tokens = slices.DeleteFunc(part.tokens, wasSent)
	}
	j.global = slices.DeleteFunc(j.global, func(g globalToken) bool { return wasSent(g.token) })
	if token != "" && !slices.ContainsFunc(j.global, func(g globalToken) bool { return g.token == token }) {
		j.number++
		j.global = append(j.global, globalToken{token, j.number})
	}
}

// forget drops all tokens of that life: the session begins anew. Of many calls
// that ask for it the first does it.
func (j *jar) forget(life uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.life != life {
		return
	}
	j.life++
	j.global = nil
	maps.DeleteFunc(j.parts, func(int, *jarScope) bool { return true })
}

// joined is the size of tokens sent as one, in bytes.
func joined(tokens []string) int {
	size := max(len(tokens)-1, 0) * len(tokenSeparator)
	for _, token := range tokens {
		size += len(token)
	}
	return size
}

// mergeable is the largest number of tokens, at least two, that can be sent to
// be made one; none if the two shortest do not fit into a request.
func mergeable(tokens []string) []string {
	short := slices.SortedFunc(slices.Values(tokens), func(a, b string) int { return len(a) - len(b) })
	n := 0
	for n < len(short) && joined(short[:n+1]) <= maxToken {
		n++
	}
	if n < 2 {
		return nil
	}
	return short[:n]
}

func joinTokens(tokens []string) string { return strings.Join(tokens, tokenSeparator) }
