package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/capstan-kv/capstan/api/client"
)

// sessionFlags carry a session from one run of the program to the next.
type sessionFlags struct {
	file string
}

func (f *sessionFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "session-file", "", "keep a session's token in this `file`: see at least what it saw and wrote")
}

// option is the session to go on with: a new one if the file is not there yet,
// none without a file.
func (f *sessionFlags) option() (client.SessionOption, error) {
	if f.file == "" {
		return client.NoSession(), nil
	}
	token, err := os.ReadFile(f.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, usageErrorf("session file: %w", err)
	}
	return client.Session(strings.TrimSpace(string(token))), nil
}

// keep writes the token back, in one piece.
func (f *sessionFlags) keep(token string) error {
	if f.file == "" || token == "" {
		return nil
	}
	temporary, err := os.CreateTemp(filepath.Dir(f.file), ".session-*")
	if err != nil {
		return failuref("done, but the session's token cannot be kept: %w", err)
	}
	defer func() { _ = os.Remove(temporary.Name()) }() // gone already if all went well
	_, err = temporary.WriteString(token + "\n")
	err = errors.Join(err, temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), f.file)
	}
	if err != nil {
		return failuref("done, but the session's token cannot be kept: %w", err)
	}
	return nil
}

// keepFailed keeps the token that came with a failure, if one did, and passes
// the failure on: a write of unknown outcome belongs to its session too.
func (f *sessionFlags) keepFailed(err error) error {
	var e *client.Error
	if errors.As(err, &e) && e.Session != "" {
		return errors.Join(err, f.keep(e.Session))
	}
	return err
}
