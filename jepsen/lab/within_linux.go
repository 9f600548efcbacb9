package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
)

// outsideVariable tells a child that it was started by Within, and from which
// network namespace, so that one who sets it by hand gets no lab in the
// machine's own network.
const outsideVariable = "CAPSTAN_LAB_OUTSIDE"

// Inside reports whether this process is one that Within started, in namespaces
// of its own.
var Inside = sync.OnceValue(func() bool {
	outside := os.Getenv(outsideVariable)
	_ = os.Unsetenv(outsideVariable) // not for our children; cannot fail
	here, err := networkNamespace()
	return err == nil && outside != "" && here != outside
})

func networkNamespace() (string, error) { return os.Readlink("/proc/thread-self/ns/net") }

// Within runs work inside user, network and mount namespaces, where it may make
// hosts. For that it starts this program once more, with the same arguments,
// environment and standard files: there it runs work and returns what that
// returns; here it waits for the other process and returns its exit status. So what
// stands before the call runs twice, and what stands after it should be os.Exit.
//
// SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on; the terminal's Ctrl-C arrives
// once. If this process dies, by whatever, the other one is killed. The error is
// ErrForbidden where the machine does not allow it; then work has not run.
func Within(work func() int) (status int, err error) {
	if Inside() {
		prepare()
		return work(), nil
	}
	here, err := networkNamespace()
	if err != nil {
		return 0, err
	}
	// The kernel kills the child when the thread that started it ends. This one
	// stays until the child is gone.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), outsideVariable+"="+here)
	reader, writer, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer reader.Close()
	defer writer.Close() // does nothing the second time
	cmd.ExtraFiles = []*os.File{writer}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// The mounts that a lab may need are gone with it, too.
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Setpgid:     true, // signals of the terminal come through us, once
		Pdeathsig:   syscall.SIGKILL,
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, forbidden(err)
	}
	writer.Close()
	ended := make(chan error)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s) // it ended: the next turn tells
		case err := <-ended:
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				return 0, err
			}
			if why, err := io.ReadAll(reader); err != nil || len(why) > 0 {
				return 0, errors.Join(fmt.Errorf("%w: %s", ErrForbidden, why), err)
			}
			if by := cmd.ProcessState.Sys().(syscall.WaitStatus); by.Signaled() {
				return 128 + int(by.Signal()), nil
			}
			return cmd.ProcessState.ExitCode(), nil
		}
	}
}

// complaints is the descriptor on which the process within tells the one outside
// why it cannot begin.
const complaints = 3

// prepare gives the process within a loopback interface. There are machines that
// let everybody make namespaces, and do nothing in them: this is where it shows.
func prepare() {
	pipe := os.NewFile(complaints, "complaints")
	link, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		fmt.Fprintf(pipe, "set up the loopback interface: %v%s", err, settings("/proc/sys"))
		os.Exit(2)
	}
	pipe.Close()
}

// forbidden says why namespaces cannot be made, if that is what an error is about.
func forbidden(err error) error {
	for _, e := range []error{syscall.EPERM, syscall.EACCES, syscall.ENOSPC, syscall.EUSERS, syscall.EINVAL, syscall.ENOSYS} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w%s", ErrForbidden, err, settings("/proc/sys"))
		}
	}
	return err
}

// settings lists what of the kernel's settings forbids it.
func settings(root string) string {
	var found []string
	for _, s := range []struct{ file, bad string }{
		{"user/max_user_namespaces", "0"},
		{"kernel/unprivileged_userns_clone", "0"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1"},
	} {
		if value, err := os.ReadFile(root + "/" + s.file); err == nil && strings.TrimSpace(string(value)) == s.bad {
			found = append(found, strings.ReplaceAll(s.file, "/", ".")+"="+s.bad)
		}
	}
	if len(found) == 0 {
		return " (in a container, its runtime may forbid it)"
	}
	return " (sysctl " + strings.Join(found, ", ") + ")"
}
