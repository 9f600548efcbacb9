package client

import (
	"context"
	"fmt"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// awaitPiece is how long one question about a fate waits for the answer: well
// below the protocol's bound of a minute.
const awaitPiece = 20 * time.Second

// AwaitResult is what became of an eventual write.
type AwaitResult struct {
	Fate capstanv1.Fate
	// Version is the write's own, or that of the one that superseded it; the zero
	// Version if there is none to tell.
	Version  Version
	ServedBy string
	Session  string // if one was given, see the Session option

	message *capstanv1.AwaitWriteResponse
}

// Message is the answer as it came; not to be changed.
func (r *AwaitResult) Message() *capstanv1.AwaitWriteResponse { return r.message }

// AwaitWrite tells what became of the eventual write that was answered with
// receipt, and waits up to wait while that is not decided; 0: it answers at once.
// A write that is pending after that is no error: it may be asked about again.
// Without a deadline of ctx the call takes at most wait and the client's timeout.
func (c *Client) AwaitWrite(ctx context.Context, receipt string, wait time.Duration, opts ...AwaitOption) (*AwaitResult, error) {
	var s settings
	for _, o := range opts {
		o.forAwait(&s)
	}
	wait = max(wait, 0)
	if _, limited := ctx.Deadline(); !limited && c.timeout >= 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait+c.timeout)
		defer cancel()
	}
	until := time.Now().Add(wait)
	for {
		began := time.Now()
		piece := min(max(until.Sub(began), 0), awaitPiece)
		r, err := c.awaitOnce(ctx, receipt, piece, s)
		decided := err != nil || r.Fate != capstanv1.Fate_FATE_PENDING
		// A node that does not wait as asked is not asked over and over.
		if decided || !time.Now().Before(until) || time.Since(began) < piece/2 {
			return r, err
		}
	}
}

// awaitOnce asks once. The request has no session: what is asked about is past.
// The answer's token joins the session.
func (c *Client) awaitOnce(ctx context.Context, receipt string, wait time.Duration, s settings) (*AwaitResult, error) {
	request := &capstanv1.AwaitWriteRequest{Receipt: receipt, Wait: durationOf(wait)}
	r, err := invoke(ctx, c, call{op: "await", waits: true}, s, func(ctx context.Context, n *node) (*AwaitResult, string, error) {
		m, err := n.kv.AwaitWrite(ctx, request)
		if err == nil && m.GetFate() == capstanv1.Fate_FATE_UNSPECIFIED {
			err = fmt.Errorf("%w: no fate", errMalformed)
		}
		if err != nil {
			return nil, "", err
		}
		return &AwaitResult{
			Fate: m.GetFate(), Version: versionOf(m.GetVersion()), ServedBy: m.GetServedBy(), message: m,
		}, m.GetServedBy(), nil
	})
	if err != nil {
		return nil, err
	}
	token := r.message.GetSession()
	switch {
	case s.mode == givenSession:
		r.Session, err = c.addToken(ctx, s.session, token)
	case s.mode == carriedSession && !c.noSession:
		c.jar.replace(everywhere, nil, token)
		// Merged now and then, they stay few. Where that fails they are kept, and
		// the next call tries again.
		_, _, _ = c.taken(ctx, "await", everywhere)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// addToken adds token to a session.
func (c *Client) addToken(ctx context.Context, session, token string) (string, error) {
	switch {
	case session == "" || session == token:
		return token, nil
	case token == "":
		return session, nil
	}
	if tokens := []string{session, token}; joined(tokens) <= maxToken {
		return joinTokens(tokens), nil
	}
	return c.mergeTokens(ctx, "await", []string{session, token})
}
