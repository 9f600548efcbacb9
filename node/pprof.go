package node

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/pprof"

	"github.com/capstan-kv/capstan/api"
)

// openPprof serves profiles of the process, if asked for.
func (n *Node) openPprof() error {
	if n.config.Pprof == "" {
		return nil
	}
	listener, err := n.config.Network.Listen(n.config.Pprof)
	if err != nil {
		return fmt.Errorf("--pprof: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	n.pprof = api.NewServer(api.Local(n.budgets.clients.Guard(mux)))
	n.pprof.WriteTimeout = 0 // a profile may last longer; the budget for answers watches over who reads it
	n.tasks.Go(func() {
		if err := n.pprof.Serve(n.budgets.profiles.Listen(listener)); !errors.Is(err, http.ErrServerClosed) {
			n.journal.log.Warn("profiling has ended", "err", err)
		}
	})
	n.onClose(n.pprof.Close)
	return nil
}
