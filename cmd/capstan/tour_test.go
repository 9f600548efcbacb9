//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// tourStep is a command of a tour and all that a terminal then shows.
type tourStep struct{ command, shows string }

// tourSteps reads a tour. What stands for other programs than capstan is left
// out, but for echo and kill.
func tourSteps(t *testing.T, file string) (steps []tourStep) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	kept := false
	for line := range strings.Lines(string(text)) {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			program, _, _ := strings.Cut(command, " ")
			if kept = program == "capstan" || program == "echo" || program == "kill"; kept {
				steps = append(steps, tourStep{command: strings.TrimSpace(command)})
			}
		} else if kept && strings.TrimSpace(line) != "" {
			steps[len(steps)-1].shows += line
		}
	}
	return steps
}

// tourist is a user at a terminal.
type tourist struct {
	bin       string // a folder with capstan in it
	endpoints string
	last      int // the last exit status
}

func newTourist(t *testing.T, endpoints string) *tourist {
	t.Helper()
	exe, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	u := &tourist{bin: t.TempDir(), endpoints: endpoints}
	if err := os.Symlink(exe, filepath.Join(u.bin, "capstan")); err != nil {
		t.Fatal(err)
	}
	return u
}

// types runs one line of shell and returns all that the terminal then shows.
func (u *tourist) types(t *testing.T, line string) string {
	t.Helper()
	screen, keyboard := openTerminal(t)
	defer screen.Close()
	shell := exec.CommandContext(t.Context(), "bash", "-c", fmt.Sprintf("(exit %d); %s", u.last, line))
	shell.Env = append(os.Environ(), "PATH="+u.bin+":"+os.Getenv("PATH"), childVariable+"="+childWhole, endpointsVariable+"="+u.endpoints)
	shell.Stdin, shell.Stdout, shell.Stderr = keyboard, keyboard, keyboard
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	keyboard.Close()              // the shell has its own
	text, _ := io.ReadAll(screen) // until nobody has the other end any more: EIO
	_ = shell.Wait()
	u.last = shell.ProcessState.ExitCode()
	return rendered(string(text))
}

// rendered is what is left on the screen, once lines that showed progress were
// erased.
func rendered(text string) string {
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i, line := range lines {
		if at := strings.LastIndex(line, "\x1b[K"); at >= 0 {
			lines[i] = line[at+len("\x1b[K"):]
		}
	}
	return strings.Join(lines, "\n")
}

// openTerminal makes a pair of ends of a terminal.
func openTerminal(t *testing.T) (screen, keyboard *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var number, locked int32
	for request, argument := range map[uintptr]*int32{syscall.TIOCSPTLCK: &locked, syscall.TIOCGPTN: &number} {
		if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, screen.Fd(), request, uintptr(unsafe.Pointer(argument))); e != 0 {
			t.Fatal(e)
		}
	}
	keyboard, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return screen, keyboard
}
