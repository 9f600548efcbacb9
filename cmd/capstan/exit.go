package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
)

// The exit statuses are part of the public face.
const (
	exitDone    = 0
	exitNo      = 1 // not found, condition failed, superseded, expired, lost
	exitUsage   = 2 // usage or invalid argument
	exitFailed  = 3 // failed, not applied
	exitUnknown = 4 // outcome unknown or still pending
	exitRefused = 5 // serve: the cluster refuses the data directory for good
)

// exitError ends the program with a status. Without an error it is silent.
type exitError struct {
	status int
	err    error
	try    string
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func (e *exitError) hint(try string) *exitError {
	e.try = try
	return e
}

func usageErrorf(format string, args ...any) *exitError {
	return &exitError{status: exitUsage, err: fmt.Errorf(format, args...)}
}

func failuref(format string, args ...any) *exitError {
	return &exitError{status: exitFailed, err: fmt.Errorf(format, args...)}
}

// flagError names the flag that may have been meant.
func flagError(cmd *cobra.Command, err error) error {
	e := usageErrorf("%w", err)
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && len(unknown.GetSpecifiedName()) > 1 {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				names = append(names, f.Name)
			}
		})
		if near := closest(unknown.GetSpecifiedName(), names); near != "" {
			return e.hint("--" + near)
		}
	}
	var invalid *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "":
		return e.hint(cmd.CommandPath() + " -- and then the arguments, if one of them begins with a dash")
	case errors.As(err, &invalid) && strings.Contains(err.Error(), "missing unit"):
		return e.hint(fmt.Sprintf("--%s %ss", invalid.GetFlag().Name, invalid.GetValue()))
	}
	return e.hint(cmd.CommandPath() + " --help")
}

// finish prints what went wrong, if anything, and decides the exit status.
func (p *program) finish(cmd *cobra.Command, err error) int {
	if err == nil {
		return exitDone
	}
	var remote *client.Error
	if errors.As(err, &remote) {
		if p.json {
			p.printErrorJSON(remote)
		} else {
			printRemoteError(p.stderr, remote, p.asked)
		}
		return statusOf(remote)
	}
	var exit *exitError
	if !errors.As(err, &exit) {
		// What cobra itself found: "unknown command ...\n\nDid you mean this?\n\tget\n".
		message, rest, _ := strings.Cut(err.Error(), "\n")
		exit = usageErrorf("%s", message)
		if fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(rest), "Did you mean this?")); len(fields) > 0 {
			_ = exit.hint(cmd.CommandPath() + " " + strings.Join(fields, ", "))
		} else {
			_ = exit.hint(cmd.CommandPath() + " --help")
		}
	}
	if exit.err != nil {
		fmt.Fprintf(p.stderr, "error: %s\n", exit.err)
		if exit.try != "" {
			fmt.Fprintf(p.stderr, "  try: %s\n", exit.try)
		}
	}
	return exit.status
}

func statusOf(e *client.Error) int {
	switch {
	case e.Reason == capstanv1.Reason_REASON_CONDITION_FAILED:
		return exitNo
	case client.IsOutcomeUnknown(e):
		return exitUnknown
	case e.Code == connect.CodeInvalidArgument:
		return exitUsage
	}
	return exitFailed
}

// readOps are the calls that write nothing, so that nobody asks whether they
// did.
var readOps = map[string]bool{"get": true, "scan": true, "status": true, "locate": true, "refresh": true, "await": true, "conflicts": true, "get cut": true, "compare": true}

// orderOps are the calls that change the cluster and write no key.
var orderOps = map[string]bool{"transfer leadership": true, "drain node": true, "remove node": true, "set cut": true}

func printRemoteError(w io.Writer, e *client.Error, asked []string) {
	fmt.Fprintf(w, "error: %s: %s\n", e.Code, e.Message)
	try := e.Try
	switch {
	case readOps[e.Op]:
	case orderOps[e.Op] && client.IsOutcomeUnknown(e):
		fmt.Fprintln(w, "  outcome unknown: it may have been done, or may yet be")
		try = "capstan status shows what became of it"
		if e.Op == "set cut" {
			try = "the same again, or capstan chaos heal"
		}
	case orderOps[e.Op]:
		fmt.Fprintln(w, "  not applied: nothing was changed")
	case client.IsOutcomeUnknown(e):
		fmt.Fprintln(w, "  outcome unknown: it may have been written, or may yet be")
		if e.Receipt != "" {
			try = "capstan await " + e.Receipt + " tells what became of it"
		}
		if try == "" {
			try = "read the key before writing again"
		}
	case e.Reason == capstanv1.Reason_REASON_CONDITION_FAILED && e.Current != nil:
		fmt.Fprintf(w, "  not applied: nothing was written, the key's version is %s\n", e.Current)
	case e.Reason == capstanv1.Reason_REASON_CONDITION_FAILED:
		fmt.Fprintln(w, "  not applied: nothing was written, the key is absent")
	case e.Code == connect.CodeInvalidArgument:
		fmt.Fprintln(w, "  not applied: nothing was written")
	default:
		fmt.Fprintln(w, "  not applied: nothing was written, a retry is safe")
	}
	if try == "" && e.Info == nil && e.Code == connect.CodeUnavailable {
		try = wrongEndpoint(asked)
	}
	if try != "" {
		fmt.Fprintf(w, "  try: %s\n", try)
	}
}

// wrongEndpoint says what may be wrong with endpoints of which none answered like a node.
func wrongEndpoint(endpoints []string) string {
	for _, endpoint := range endpoints {
		u, err := url.Parse(endpoint)
		if err != nil || u.Host == "" {
			continue // a node's name
		}
		host := u.Hostname()
		switch port, _ := strconv.Atoi(u.Port()); {
		case u.Scheme == "https":
			return fmt.Sprintf("http://%s: nodes serve no TLS by themselves", u.Host)
		case u.Port() == "":
			return fmt.Sprintf("http://%s: without a port, %s means port 80", net.JoinHostPort(host, "7820"), endpoint)
		case port >= 7820 && port < 8820 && (port%10 == 1 || port%10 == 2):
			return fmt.Sprintf("http://%s: port %d is usually for other nodes (peer or gossip), not for clients",
				net.JoinHostPort(host, strconv.Itoa(port-port%10)), port)
		}
	}
	return "--endpoints with the address of a running node, or capstan demo to start three"
}

func (p *program) printErrorJSON(e *client.Error) {
	info := e.Info
	if info == nil {
		info = &capstanv1.ErrorInfo{Outcome: e.Outcome}
	}
	message := e.Message
	if e.Try != "" {
		message += "; try: " + e.Try
	}
	line, err := jsonLine(&capstanv1.Error{Code: e.Code.String(), Message: message, Info: info})
	if err != nil {
		fmt.Fprintf(p.stderr, "error: %s\n", e)
		return
	}
	_, _ = p.stderr.Write(line) // there is nowhere else to say it
}

// closest is the candidate with the fewest edits to name, if they are few.
func closest(name string, candidates []string) string {
	best, at := "", max(2, len(name)/3)+1
	for _, c := range candidates {
		if d := edits(name, c); d < at {
			best, at = c, d
		}
	}
	return best
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// lastLines is the tail of a log, for a report.
func lastLines(text []byte, n int) string {
	lines := bytes.Split(bytes.TrimRight(text, "\n"), []byte("\n"))
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return string(bytes.Join(lines, []byte("\n")))
}
