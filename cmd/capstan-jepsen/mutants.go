package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/capstan-kv/capstan/jepsen"
	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/history"
	"github.com/capstan-kv/capstan/jepsen/lab"
	"github.com/capstan-kv/capstan/jepsen/mutants"
)

// faultBinary is the build that has faults to plant, beside this program.
const faultBinary = "capstan-faults"

// exitMissed: a fault was not found, or found where it was not.
const exitMissed = 1

func (p *program) mutantsCommand() *cobra.Command {
	var output outputFlag
	var c mutants.Config
	var store string
	cmd := &cobra.Command{
		Use:   "mutants",
		Short: "plant known faults in the program, and see that each is found",
		Long: `Shows that the tests can fail. Each mutant is the program with one thing done wrong on
purpose; a test of its own has to find it, and has to find nothing on the same
seeds without the fault.

It needs the build that has the faults (make build-faults) and a lab of namespaces,
and takes some minutes. The files of each run are left in a directory below --dir.

Exit status: 0 all were found, and nothing else; 1 some were not, or something was
found without a fault; 2 some could not be run.`,
		Example: `  capstan-jepsen mutants
  capstan-jepsen mutants --only skip-base,drop-hint
  capstan-jepsen mutants --list`,
		Args: arguments(),
	}
	list := cmd.Flags().Bool("list", false, "list the mutants, and how each is to be found")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		asJSON, err := output.json()
		switch {
		case err != nil:
			return err
		case *list:
			return p.listMutants(asJSON)
		}
		if c.Binary, err = findBinary(c.Binary, faultBinary); err != nil {
			return err
		}
		c.Harness, c.Command = programVersion(), append([]string{p.name()}, p.args...)
		return p.inNamespaces(func() error { return p.huntMutants(cmd.Context(), c, store, asJSON) })
	}
	output.add(cmd)
	flags := cmd.Flags()
	flags.StringSliceVar(&c.Only, "only", nil, "these mutants only (default: all)")
	flags.StringVar(&c.Binary, "binary", "", "the build with faults to plant (default: "+faultBinary+" beside this program, or in PATH)")
	flags.IntVar(&c.Seeds, "seeds", 0, "how many seeds to try for each at most (default: as many as there are)")
	flags.StringVar(&store, "dir", "store", "directory for the directories of runs")
	return cmd
}

func (p *program) listMutants(asJSON bool) error {
	type line struct {
		Fault     string   `json:"fault"`
		What      string   `json:"what"`
		How       string   `json:"how"`
		Workloads []string `json:"workloads"`
		Nemeses   []string `json:"nemeses"`
	}
	var all []line
	var b strings.Builder
	for _, m := range mutants.All() {
		all = append(all, line{m.Fault, m.What, m.How, m.Workloads(), m.Kinds()})
		fmt.Fprintf(&b, "%s: %s\n    %s: %s\n", m.Fault, m.What, strings.Join(m.Workloads(), ", "), m.How)
	}
	if asJSON {
		return p.printObject(all)
	}
	return p.write(b.String())
}

// huntMutants runs them, and tells of each as it is done.
func (p *program) huntMutants(ctx context.Context, c mutants.Config, store string, asJSON bool) error {
	c.Dir = filepath.Join(store, "mutants-"+time.Now().Format("20060102-150405"))
	line := newProgress(p.stderr)
	c.Progress = func(now mutants.Progress) {
		what := "clean"
		if now.Planted {
			what = "planted"
		}
		line.tell(fmt.Sprintf("%s %d %s %v", now.Fault, now.Seed, what, now.Run.Phase), func() string {
			return fmt.Sprintf("%d of %d  %s, seed %d, %s: %s", now.Number, now.Of, now.Fault, now.Seed, what, strings.TrimSpace(progressLine(now.Run)))
		})
	}
	var failed error
	c.Told = func(row mutants.Row) {
		line.clear()
		if row.Found {
			failed = errors.Join(failed, reportOf(row.Dir))
		}
		if asJSON {
			failed = errors.Join(failed, p.printObject(row))
			return
		}
		failed = errors.Join(failed, p.write(row.String()+"\n"))
	}
	rows, err := p.hunt(ctx, c)
	line.clear()
	if ctx.Err() != nil {
		return usageErrorf("interrupted after %d mutants: %w", len(rows), context.Cause(ctx))
	}
	if err := errors.Join(err, failed); err != nil {
		return usageErrorf("%w", err)
	}
	p.status = mutantsStatus(rows)
	if asJSON {
		return nil
	}
	return p.write(mutantsTable(rows, c.Dir))
}

func mutantsStatus(rows []mutants.Row) int {
	status := 0
	for _, r := range rows {
		switch {
		case r.OK():
		case !r.Found && r.Failed != "":
			if status == 0 {
				status = exitCannotTell
			}
		default:
			status = exitMissed
		}
	}
	return status
}

func mutantsTable(rows []mutants.Row, dir string) string {
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "\nFAULT\tFOUND\tAFTER\tBY\tWITHOUT IT\n")
	all := 0
	for _, r := range rows {
		found, by, clean := "no", "-", "clean"
		if r.Found {
			found, by = "yes", r.Checker
			if r.Workload != "" {
				by = r.Workload + ": " + by
			}
		} else if r.Failed != "" {
			found = "could not tell"
		}
		if !r.Clean {
			clean = "NOT CLEAN"
		}
		if r.OK() {
			all++
		}
		fmt.Fprintf(table, "%s\t%s\t%.0f s\t%s\t%s\n", r.Fault, found, r.After.Seconds(), by, clean)
	}
	_ = table.Flush() // a builder takes all
	fmt.Fprintf(&b, "\n%d of %d found, with nothing found on the same seeds without the fault.\n", all, len(rows))
	if _, err := os.Stat(dir); err == nil {
		fmt.Fprintf(&b, "Runs, with a report of each that found its fault, are in %s.\n", dir)
	}
	return b.String()
}

// reportOf writes the page of a run that lies in a directory, as it was judged.
func reportOf(dir string) error {
	h, err := readFile(filepath.Join(dir, jepsen.HistoryFile), history.Read)
	if err != nil {
		return err
	}
	r, err := readFile(filepath.Join(dir, jepsen.ResultFile), func(from io.Reader) (*check.Result, error) {
		r := &check.Result{}
		return r, json.NewDecoder(from).Decode(r)
	})
	if err != nil {
		return err
	}
	return writeReport(filepath.Join(dir, reportFile), dir, h, r)
}

func readFile[T any](path string, read func(io.Reader) (T, error)) (T, error) {
	file, err := os.Open(path)
	if err != nil {
		var none T
		return none, err
	}
	defer file.Close()
	return read(file)
}

// inNamespaces does something where hosts can be made.
func (p *program) inNamespaces(do func() error) error {
	status, err := p.within(func() int { return p.finish(nil, do()) })
	if errors.Is(err, lab.ErrForbidden) {
		return usageErrorf("no lab can be made: %w", err).hint("allow user namespaces")
	}
	p.status = status
	return err
}
