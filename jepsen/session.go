package jepsen

import (
	"slices"
	"strings"
	"sync"
)

// sessions keeps the tokens of sessions by name. What a session's operation sends
// are those that its operations before have been given; its own answer's token
// holds their past, and takes their place.
type sessions struct {
	mu     sync.Mutex
	tokens map[string][]string
}

// tokenSeparator stands between tokens that are sent as one.
const tokenSeparator = "."

// take gives the tokens that the session has now.
func (s *sessions) take(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.tokens[name])
}

// replace puts the token of an answer in the place of those that were sent for it.
// Without one there was no answer that the session could know of.
func (s *sessions) replace(name string, sent []string, token string) {
	if token == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tokens == nil {
		s.tokens = map[string][]string{}
	}
	kept := slices.DeleteFunc(s.tokens[name], func(t string) bool { return t == token || slices.Contains(sent, t) })
	s.tokens[name] = append(kept, token)
}

func joinTokens(tokens []string) string { return strings.Join(tokens, tokenSeparator) }
