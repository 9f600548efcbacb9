package main

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/capstan-kv/capstan/jepsen"
	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/history"
)

func (p *program) checkCommand() *cobra.Command {
	var output outputFlag
	var patience time.Duration
	var page string
	cmd := &cobra.Command{
		Use:   "check HISTORY",
		Short: "judge the history of a run once more, without a cluster",
		Long: `Judges a history as the run that recorded it did, or better, if this program is
newer. HISTORY is the file, the directory of a run that has one, or - for standard
input.`,
		Example: `  capstan-jepsen check store/20261125-180000-4711/history.jsonl
  capstan-jepsen check store/20261125-180000-4711 -o json
  capstan-jepsen check store/20261125-180000-4711 --report again.html`,
		Args: arguments("HISTORY"),
		RunE: func(_ *cobra.Command, args []string) error {
			asJSON, err := output.json()
			if err != nil {
				return err
			}
			if patience <= 0 {
				return usageErrorf("--patience %v: it is above 0", patience)
			}
			h, dir, err := p.readHistory(args[0])
			if err != nil {
				return err
			}
			r := check.Check(h, check.Options{Patience: patience})
			p.status = r.Verdict.Exit()
			if page != "" {
				if err := writeReport(page, dir, h, r); err != nil {
					return usageErrorf("no report: %w", err)
				}
			}
			if asJSON {
				return p.printObject(r)
			}
			return p.write(verdict(r, colours(p.stdout)))
		},
	}
	output.add(cmd)
	cmd.Flags().DurationVar(&patience, "patience", 30*time.Second, "how long deciding one key may take")
	cmd.Flags().StringVar(&page, "report", "", "write the report to this file, too")
	return cmd
}

// readHistory gives the history and the directory that its run's files are in, if
// there is one.
func (p *program) readHistory(path string) (h *history.History, dir string, err error) {
	from := p.stdin
	if path != "-" {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			path = filepath.Join(path, jepsen.HistoryFile)
		}
		file, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil, "", usageErrorf("%w", err).hint("capstan-jepsen run records one, in store/")
		}
		if err != nil {
			return nil, "", usageErrorf("%w", err)
		}
		defer file.Close()
		from, dir = file, filepath.Dir(path)
	}
	if h, err = history.Read(from); err != nil {
		return nil, "", usageErrorf("%s is no history: %w", path, err)
	}
	return h, dir, nil
}
