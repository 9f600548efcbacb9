package jepsen

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/capstan-kv/capstan/api/client"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// answerSlack is how much longer than a request's deadline its answer is waited
// for: the cluster says no at the deadline, and on a machine that runs all nodes that
// may take a while to arrive. The ledger of availability holds nodes to it.
const answerSlack = time.Second

// maxError bounds what the record keeps of an error's text, in bytes.
const maxError = 300

// asked are the clients of a run: one for each node, which it asks and no other,
// once a request; and one that finds its way by itself, as those of users do.
type asked struct {
	urls   map[string]string
	nodes  map[string]*client.Client
	routed *client.Client
}

// newAsked makes clients of nodes by name, to their URLs.
func newAsked(urls map[string]string) (*asked, error) {
	a := &asked{urls: urls, nodes: map[string]*client.Client{}}
	for name, url := range urls {
		c, err := client.New(client.Options{
			Endpoints: []string{url}, Via: url, Timeout: -1, MaxAttempts: 1, NoSession: true, NoRing: true,
		})
		if err != nil {
			return nil, errors.Join(err, a.close())
		}
		a.nodes[name] = c
	}
	var err error
	if a.routed, err = client.New(client.Options{Endpoints: slices.Sorted(maps.Values(urls)), Timeout: -1, NoSession: true}); err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

func (a *asked) close() error {
	var failed error
	if a.routed != nil {
		failed = a.routed.Close()
	}
	for _, c := range a.nodes {
		failed = errors.Join(failed, c.Close())
	}
	return failed
}

// call carries out an operation at its node, or wherever if it has none, and fills
// in what it was answered.
// token is what the operation's session sends; next is the token that it was
// answered with, empty if none.
func (a *asked) call(ctx context.Context, o *history.Op, token string) (next string) {
	c := a.nodes[o.Node]
	if o.Node == "" {
		c = a.routed
	}
	if c == nil {
		o.Outcome, o.Code, o.Error = history.Fail, "invalid_argument", fmt.Sprintf("no node %q", o.Node)
		return ""
	}
	ctx, cancel := patiently(ctx, o.Deadline)
	defer cancel()
	return do(ctx, c, o, token)
}

// do carries out an operation with a client.
func do(ctx context.Context, c *client.Client, o *history.Op, token string) (next string) {
	session := client.NoSession()
	if o.Session != "" {
		session = client.Session(token)
	}
	key := []byte(o.Key)
	var err error
	switch o.Func {
	case history.Get:
		var r *client.GetResult
		if r, err = c.Get(ctx, key, readLevel(o), session); err == nil {
			next = r.Session
			o.Found, o.Value, o.Version = r.Found, string(r.Value), versionText(r.Version)
			fresh(o, r.Freshness)
		}
	case history.Put:
		var options []client.WriteOption
		if options, err = writeOptions(o, session); err != nil {
			break
		}
		var r *client.PutResult
		if r, err = c.Put(ctx, key, []byte(o.Value), options...); err == nil {
			next = r.Session
			o.Version, o.ServedBy, o.Receipt, o.Base = versionText(r.Version), r.ServedBy, r.Receipt, r.Base
		}
	case history.Delete:
		var options []client.WriteOption
		if options, err = writeOptions(o, session); err != nil {
			break
		}
		var r *client.DeleteResult
		if r, err = c.Delete(ctx, key, options...); err == nil {
			next = r.Session
			o.Version, o.ServedBy, o.Receipt, o.Base = versionText(r.Version), r.ServedBy, r.Receipt, r.Base
			o.Existed = r.Existed != nil && *r.Existed
		}
	case history.Scan:
		next, err = scan(ctx, c, o, session)
	default:
		err = fmt.Errorf("nobody knows how to %q", o.Func)
	}
	if err != nil {
		return failed(o, err)
	}
	o.Outcome = history.OK
	return next
}

func scan(ctx context.Context, c *client.Client, o *history.Op, session client.SessionOption) (next string, err error) {
	var entries []history.Entry
	for m, err := range c.ScanMessages(ctx, client.Prefix([]byte(o.Key)), readLevel(o), session) {
		if err != nil {
			return "", err
		}
		for _, e := range m.GetEntries() {
			v := e.GetVersion()
			entries = append(entries, history.Entry{
				Key: string(e.GetKey()), Value: string(e.GetValue()),
				Version: versionText(client.Version{Index: v.GetIndex(), Timestamp: v.GetTimestamp(), Node: v.GetNode()}),
			})
		}
		if end := m.GetEnd(); end != nil {
			next = end.GetSession()
			fresh(o, client.FreshnessOf(end.GetFreshness()))
		}
	}
	o.Entries = entries
	return next, nil
}

// readLevel is also a client.ScanOption.
func readLevel(o *history.Op) interface {
	client.GetOption
	client.ScanOption
} {
	switch o.Level {
	case history.Eventual:
		return client.Eventual()
	case history.Bounded:
		return client.Bounded(o.MaxStaleness)
	}
	return client.Linearizable()
}

func writeOptions(o *history.Op, session client.SessionOption) ([]client.WriteOption, error) {
	options := []client.WriteOption{session}
	if o.Level == history.Eventual {
		options = append(options, client.Eventual())
	}
	if o.Acks > 0 {
		options = append(options, client.Acks(uint32(o.Acks)))
	}
	switch o.Condition {
	case history.Always:
	case history.IfAbsent:
		options = append(options, client.IfAbsent())
	case history.IfPresent:
		options = append(options, client.IfPresent())
	case history.IfVersion:
		v, err := client.ParseVersion(o.ExpectVersion)
		if err != nil {
			return nil, err
		}
		options = append(options, client.IfVersion(v))
	default:
		return nil, fmt.Errorf("nobody knows the condition %q", o.Condition)
	}
	return options, nil
}

func fresh(o *history.Op, f client.Freshness) {
	o.ServedBy, o.Tentative, o.Staleness, o.StalenessKnown = f.ServedBy, f.Tentative, f.Staleness, f.Known
}

// failed says what an error means for the history: nothing happened (Fail), or
// nobody knows (Info). It gives the session's token, if the error has one.
func failed(o *history.Op, err error) (next string) {
	o.Outcome, o.Error = history.Info, err.Error()
	var e *client.Error
	if !errors.As(err, &e) {
		o.Outcome, o.Code = history.Fail, "invalid_argument" // nothing was sent
		return ""
	}
	o.Code, o.Reason, o.Receipt = e.Code.String(), reasonText(e), e.Receipt
	o.Error = e.Message[:min(len(e.Message), maxError)]
	switch {
	case o.Write() && client.IsNotApplied(err):
		o.Outcome = history.Fail
	case !o.Write() && e.Info != nil:
		o.Outcome = history.Fail // it was refused, and not just lost
	}
	if errors.Is(err, client.ErrConditionFailed) {
		o.Mismatch = true
		if e.Current != nil {
			o.Version = versionText(*e.Current)
		}
	}
	return e.Session
}

// versionText is empty for no version.
func versionText(v client.Version) string {
	if v == (client.Version{}) {
		return ""
	}
	return v.String()
}

// reasonText is the reason as the protocol spells it; empty if the answer is not
// the cluster's, or there was none.
func reasonText(e *client.Error) string {
	if e.Info == nil {
		return ""
	}
	return strings.TrimPrefix(e.Reason.String(), "REASON_")
}

// patience tells the cluster of an earlier deadline than its own, so that what the
// cluster says at the deadline still arrives.
type patience struct {
	context.Context
	deadline time.Time
}

func (p patience) Deadline() (time.Time, bool) { return p.deadline, true }

func patiently(ctx context.Context, deadline time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, deadline+answerSlack)
	return patience{ctx, time.Now().Add(deadline)}, cancel
}
