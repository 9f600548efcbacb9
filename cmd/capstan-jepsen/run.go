package main

import (
	"cmp"
	"context"
	"io"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/capstan-kv/capstan/jepsen"
	"github.com/capstan-kv/capstan/jepsen/mutants"
)

// version is set by the linker at a release.
var version string

// machine is what the program does for real, and a test does not.
type machine struct {
	self string // how the program was called, for who wants to call it again
	test func(context.Context, jepsen.Config) (*jepsen.Outcome, error)
	// within runs something where hosts can be made: see lab.Within.
	within func(func() int) (int, error)
	hunt   func(context.Context, mutants.Config) ([]mutants.Row, error)
}

// program is one run of the binary.
type program struct {
	machine
	args           []string
	stdin          io.Reader
	stdout, stderr io.Writer
	status         int // if nothing went wrong
}

// run is the whole program: it returns the exit status.
func run(ctx context.Context, m machine, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &program{machine: m, args: args, stdin: stdin, stdout: stdout, stderr: stderr}
	root := p.rootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	return p.finish(cmd, err)
}

func (p *program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "capstan-jepsen",
		Short: "partition tests of a Capstan cluster, in the style of Jepsen",
		Long: `Starts a cluster of real capstan processes on hosts made on the spot (Linux, no
root, no containers), has clients work while the network is cut, processes are
killed and paused, and disks and clocks go wrong, and judges what the clients saw:
a one-sentence verdict, and a report that opens offline.

Exit status: 0 what was promised holds; 1 it was violated; 2 the test could not
tell, or did not run, wrong usage included.`,
		Example: `  capstan-jepsen run
  capstan-jepsen run --workload register,mixed --nemesis cuts,pause --time-limit 2m
  capstan-jepsen list
  capstan-jepsen check store/20261125-180000-4711/history.jsonl`,
		Version:       programVersion(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("capstan-jepsen {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageErrorf("%w", err).hint(cmd.CommandPath() + " --help")
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(p.runCommand(), p.checkCommand(), p.listCommand(), p.mutantsCommand())
	return root
}

// name of the program, as a shell finds it here.
func (p *program) name() string { return cmp.Or(p.self, "capstan-jepsen") }

// programVersion is the release, or what the build knows of the source.
func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// arguments wants exactly so many and says which.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		if len(names) == 0 {
			return usageErrorf("%s takes no arguments, got %q", cmd.CommandPath(), args[0]).hint(cmd.CommandPath() + " --help")
		}
		return usageErrorf("%s takes one argument, %s, got %d", cmd.CommandPath(), names[0], len(args)).hint(cmd.CommandPath() + " --help")
	}
}

// terminal reports whether w is one, and how wide.
func terminal(w io.Writer) (columns int, ok bool) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil || columns <= 0 {
		columns = 80
	}
	return columns, true
}
