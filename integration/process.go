//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stopTimeout is how long a process has to end when asked to.
const stopTimeout = 30 * time.Second

// installed returns the path of something that deploy/local/stack install has
// put into its directory, and fails the test if it is not there.
func installed(t testing.TB, elem ...string) string {
	t.Helper()
	home := os.Getenv("CHURN_STACK_DIR")
	if home == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatalf("looking for the stack's directory: %v", err)
		}
		home = filepath.Join(cache, "churnstream")
	}
	path := filepath.Join(append([]string{home}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v\nrun deploy/local/stack install", err)
	}
	return path
}

// Process is a running program. It is killed when the test ends, and by the
// kernel when the test's own process dies.
type Process struct {
	t    testing.TB
	name string
	args []string
	env  []string
	log  string // file that gets both outputs

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has ended
}

// spawn starts processes from one thread that lives as long as this process:
// the kernel sends the signal of a parent's death when the thread that forked
// ends.
var spawn = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for fn := range work {
			fn()
		}
	}()
	return work
})

// StartProcess runs a program with the given environment variables added to
// ours. Its output goes to a file, whose end is shown if the test fails.
func StartProcess(t testing.TB, name string, env []string, program string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, name: name, args: append([]string{program}, args...), env: env, log: filepath.Join(t.TempDir(), "log")}
	t.Cleanup(func() {
		if p.Running() {
			p.Kill9()
		}
		if t.Failed() {
			t.Logf("%s: %v; end of its log:\n%s", p.name, p.cmd.ProcessState, tail(p.Log(), 2000))
		}
	})
	p.Start()
	return p
}

func tail(s string, n int) string {
	if len(s) > n {
		s = "…" + s[len(s)-n:]
	}
	return s
}

// Start starts the program again after it ended.
func (p *Process) Start() {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		p.t.Fatalf("starting %s: %v", p.name, err)
	}
	defer log.Close()
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own, so that what it starts is killed and frozen with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	spawn() <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		p.t.Fatalf("starting %s: %v", p.name, err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd, p.ended = cmd, ended
}

// Log returns what the program has written so far, in all its lives.
func (p *Process) Log() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// Running reports whether the program has been started and not ended.
func (p *Process) Running() bool {
	select {
	case <-p.Ended():
		return false
	default:
		return true
	}
}

// Ended returns a channel that is closed when the program ends.
func (p *Process) Ended() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

// ExitCode returns the code of a program that has ended, −1 if by a signal.
func (p *Process) ExitCode() int {
	<-p.Ended()
	return p.cmd.ProcessState.ExitCode()
}

// signal sends a signal to the program and what it has started.
func (p *Process) signal(s syscall.Signal) {
	p.t.Helper()
	if !p.Running() {
		return // the id may be another's by now
	}
	if err := syscall.Kill(-p.cmd.Process.Pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		p.t.Errorf("sending %s %v: %v", p.name, s, err)
	}
}

// Kill9 kills the program without a chance to tidy up.
func (p *Process) Kill9() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	<-p.Ended()
}

// Stop asks the program to end and waits for it.
func (p *Process) Stop() {
	p.t.Helper()
	// Only to the program: it knows how to stop what it has started.
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("asking %s to stop: %v", p.name, err)
	}
	select {
	case <-p.Ended():
	case <-time.After(stopTimeout):
		p.t.Errorf("%s did not stop within %v of being asked to", p.name, stopTimeout)
		p.Kill9()
	}
}

// Freeze stops the program from running, as a machine that hangs does.
func (p *Process) Freeze() { p.t.Helper(); p.signal(syscall.SIGSTOP) }

// Thaw lets a frozen program go on.
func (p *Process) Thaw() { p.t.Helper(); p.signal(syscall.SIGCONT) }

var givenPorts sync.Map

// FreePorts returns ports on loopback that nobody listens on. They lie below
// those that systems give to outgoing connections, so that a service finds its
// port free again after it was killed. No port is given twice: who has it may
// not listen on it yet, or not at this moment.
func FreePorts(t testing.TB, n int) []int {
	t.Helper()
	var ports []int
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		if _, given := givenPorts.LoadOrStore(port, true); given {
			continue
		}
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		defer ln.Close() // not before all are found, or one may come twice
		if ports = append(ports, port); len(ports) == n {
			return ports
		}
	}
	t.Fatalf("no %d free ports", n)
	return nil
}

// Eventually calls check until it returns nil. It fails the test with its last
// error when that takes too long.
func Eventually(t testing.TB, limit time.Duration, what string, check func() error) time.Duration {
	t.Helper()
	begin := time.Now()
	for {
		err := check()
		if err == nil {
			return time.Since(begin)
		}
		if time.Since(begin) > limit {
			t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// waitFor waits until a process has written text since it last had written
// from bytes.
func (p *Process) waitFor(limit time.Duration, text string, from int) {
	p.t.Helper()
	Eventually(p.t, limit, p.name+" starting", func() error {
		log, err := os.ReadFile(p.log)
		switch {
		case err != nil:
			return err
		case bytes.Contains(log[min(from, len(log)):], []byte(text)):
			return nil
		case !p.Running():
			p.t.Fatalf("%s ended:\n%s", p.name, tail(string(log), 4000))
		}
		return fmt.Errorf("%q is not in its log", text)
	})
}

// run runs a program to its end and returns what it wrote to standard output.
func run(t testing.TB, env []string, program string, args ...string) string {
	t.Helper()
	out, err := output(t.Context(), env, program, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func output(ctx context.Context, env []string, program string, args ...string) (string, error) {
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	spawn() <- func() { started <- cmd.Start() }
	err := <-started
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s\n%s", filepath.Base(program), strings.Join(args, " "), err, tail(stderr.String(), 4000), tail(stdout.String(), 2000))
	}
	return stdout.String(), nil
}
