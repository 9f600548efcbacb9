package node

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/pprof"
	"time"
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
	n.pprof = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	n.tasks.Go(func() {
		if err := n.pprof.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			n.journal.log.Warn("profiling has ended", "err", err)
		}
	})
	n.onClose(n.pprof.Close)
	return nil
}
