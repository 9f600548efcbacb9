package formation

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/partition"
)

const (
	// AttemptTimeout bounds one round of asking; within PromiseLifetime, so that
	// the first promise still stands when the last comes.
	AttemptTimeout = 4 * time.Second
	// retryInterval is how long after nothing came of a look the next one follows
	// at the latest, with half as much again at random so that two founders do not
	// stay in step.
	retryInterval = time.Second
)

// Config is what a Coordinator needs. All of it is required but for Events.
type Config struct {
	Self   partition.NodeID
	Expect int
	// ClusterID is the cluster that the node belongs to already, if any.
	ClusterID string
	// View is what gossip shows now.
	View func() View
	// Changes wakes the Coordinator when View may have changed.
	Changes <-chan struct{}
	// Ask sends a request and waits for its answer until ctx ends.
	Ask func(ctx context.Context, to partition.NodeID, r PromiseRequest) (PromiseReply, error)
	// Events gets what happens, from Run's goroutine. Default: nobody.
	Events func(Event)
}

// Event tells what Run has decided; one is sent when it differs from the last.
type Event struct {
	Action Action
	// Err is why an attempt to found failed, nil for a decision.
	Err error
}

// Outcome is how the node comes to a cluster.
type Outcome struct {
	// Founded: this node is to make the control group, as its single voter. Else
	// it is to join, through any of Via.
	Founded   bool
	ClusterID string
	Via       []partition.NodeID
	// Set are the first nodes, sorted, when Founded.
	Set []partition.NodeID
}

// Coordinator brings one node to its cluster. OnAsk and Belong are safe for
// concurrent use with everything; Run is called by one goroutine at a time.
type Coordinator struct {
	config Config

	mu       sync.Mutex
	promises *Promises
	// The last told decision and failure; only Run's goroutine touches them.
	lastAction, lastFailure string
}

// NewCoordinator checks the configuration. OnAsk works from now on.
func NewCoordinator(c Config) (*Coordinator, error) {
	switch {
	case !idPattern.MatchString(string(c.Self)):
		return nil, fmt.Errorf("node id %q", c.Self)
	case c.Expect < 0 || c.Expect > MaxExpect:
		return nil, fmt.Errorf("%d expected nodes, of at most %d", c.Expect, MaxExpect)
	case c.ClusterID != "" && !idPattern.MatchString(c.ClusterID):
		return nil, fmt.Errorf("cluster id %q", c.ClusterID)
	case c.View == nil || c.Ask == nil:
		return nil, errors.New("no View or no Ask")
	}
	return &Coordinator{config: c, promises: NewPromises(c.Self, c.Expect, c.ClusterID)}, nil
}

// OnAsk answers another node's request.
func (c *Coordinator) OnAsk(r PromiseRequest) PromiseReply {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.promises.OnAsk(time.Now(), r)
}

// Belong says that the node durably belongs to the cluster.
func (c *Coordinator) Belong(cluster string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.promises.Belong(cluster)
}

// Run returns once the node is to found a cluster or to join one, or when ctx
// ends. A node that belongs to one is told to join it. A join that leads nowhere is
// followed by another Run; a founding is not: only Belong or the process's end
// lets its promises go.
func (c *Coordinator) Run(ctx context.Context) (Outcome, error) {
	c.mu.Lock()
	cluster := c.promises.cluster
	founding := c.promises.Complete()
	if !founding {
		c.promises.Joining("")
	}
	c.mu.Unlock()
	if cluster != "" {
		return Outcome{ClusterID: cluster}, nil
	}
	if founding {
		return Outcome{}, errors.New("a founding is under way")
	}
	for {
		view := c.config.View()
		action := Decide(view)
		c.tell(Event{Action: action})
		switch action.Kind {
		case Join:
			return c.join(action.ClusterID, action.Via), nil
		case Seek:
			outcome, err := c.seek(ctx, action.Set)
			if err == nil {
				return outcome, nil
			}
			c.tell(Event{Action: action, Err: err})
		case Wait:
		}
		// A change comes with the next look too, so an attempt that failed is not
		// repeated faster than this when gossip is busy.
		pause := retryInterval + mathrand.N(retryInterval/2)
		timer := time.NewTimer(pause)
		changes := c.config.Changes
		if action.Kind == Seek {
			changes = nil
		}
		select {
		case <-ctx.Done():
			timer.Stop()
			return Outcome{}, ctx.Err()
		case <-changes:
			timer.Stop()
		case <-timer.C:
		}
	}
}

func (c *Coordinator) join(cluster string, via []partition.NodeID) Outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.promises.Joining(cluster)
	return Outcome{ClusterID: cluster, Via: via}
}

// seek asks the set for its promises. It returns with all of them, or with a
// cluster to join, or gives its own promise back.
func (c *Coordinator) seek(ctx context.Context, set []partition.NodeID) (Outcome, error) {
	formation := "c-" + strings.ToLower(rand.Text())
	c.mu.Lock()
	requests, err := c.promises.Begin(time.Now(), set, formation)
	c.mu.Unlock()
	if err != nil {
		return Outcome{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, AttemptTimeout)
	defer cancel()
	type answer struct {
		from  partition.NodeID
		reply PromiseReply
		err   error
	}
	answers := make(chan answer, len(requests)) // one each: no asker ever waits
	for _, r := range requests {
		go func() {
			reply, err := c.config.Ask(ctx, r.To, r)
			answers <- answer{r.To, reply, err}
		}()
	}
	// Every asker is waited for; a refusal ends the others' wait.
	var failures []error
	joined := Outcome{}
	for range requests {
		a := <-answers
		switch {
		case a.err != nil:
			failures = append(failures, fmt.Errorf("%s: %w", a.from, a.err))
		case a.reply.Node != a.from || a.reply.Formation != formation || a.reply.check() != nil:
			failures = append(failures, fmt.Errorf("%s: %w", a.from, ErrMessage))
		case a.reply.ClusterID != "":
			joined = Outcome{ClusterID: a.reply.ClusterID, Via: []partition.NodeID{a.from}}
		case !a.reply.Granted:
			failures = append(failures, fmt.Errorf("%s: %s", a.from, a.reply.Reason))
		default:
			c.mu.Lock()
			c.promises.OnReply(a.reply)
			c.mu.Unlock()
			continue
		}
		cancel()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case joined.ClusterID != "":
		c.promises.Abandon()
		c.promises.Joining(joined.ClusterID)
		return joined, nil
	case !c.promises.Complete():
		c.promises.Abandon()
		return Outcome{}, errors.Join(failures...)
	}
	return Outcome{Founded: true, ClusterID: formation, Set: set}, nil
}

// tell sends an event unless it repeats the last of its sort.
func (c *Coordinator) tell(e Event) {
	last, text := &c.lastAction, fmt.Sprint(e.Action)
	if e.Err != nil {
		last, text = &c.lastFailure, e.Err.Error()
	}
	if c.config.Events == nil || *last == text {
		return
	}
	*last = text
	c.config.Events(e)
}
