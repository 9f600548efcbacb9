package api

import (
	"net/http"
	"time"

	"github.com/capstan-kv/capstan/partition"
)

// Config is what [NewHandler] needs.
type Config struct {
	// KV, Cluster and Health execute what the handler has decoded. Required.
	KV      KV
	Cluster Cluster
	Health  Health
	// Chaos serves the ChaosService; nil: that is not offered, which is how a node
	// should run where its network is not to be cut by a mere request.
	Chaos Chaos
	// MaxValueSize bounds one value, in bytes. Default [DefaultMaxValueSize],
	// at most [MaxMaxValueSize].
	MaxValueSize int
	// Version is the software's version, shown at "/".
	Version string
	// Metrics serves /metrics; nil: 404.
	Metrics http.Handler
	// Observer is told of every request; may be nil.
	Observer Observer
	// APIAddress gives the API address of a node, as clients reach it, for
	// ErrorInfo.leader; "" if not known. May be nil.
	APIAddress func(partition.NodeID) string
	// Budgets bound what all clients together take up. Default: room for 64 MiB of
	// bodies, as much of answers, and 4,096 requests.
	Budgets *Budgets
	// Panicked is told of a panic that was answered as an internal error; may
	// be nil. It is called on the goroutine that panicked.
	Panicked func(method string, value any, stack []byte)
}

// Observer is told of every request once it has been answered. Observe is
// called concurrently, on the request's goroutine: it must be quick.
type Observer interface {
	// Observe gets labels from small fixed sets. Method is the RPC's name
	// ("Get", "GetStatus"), "http.Get", "http.Head", "http.Put" or
	// "http.Delete" for the plain door, or "other". Level is "linearizable",
	// "bounded", "eventual", or "none" where the method has no single one. Code is
	// "ok" or an error code as Connect spells it ("unavailable").
	Observe(method, level, code string, d time.Duration)
}
