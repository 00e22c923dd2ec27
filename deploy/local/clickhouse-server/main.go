// Command clickhouse-server runs a ClickHouse server on loopback from the
// engine's shared library, libchdb.so, where the server itself cannot be
// installed. It needs no C compiler. It has one user, default, without a
// password, unless a configuration file names a users_config with others. TLS
// is beyond it.
//
//	clickhouse-server --library libchdb.so --data DIR --tcp 9000 --http 8123 [--config config.xml]
//
// It stops on SIGTERM or SIGINT. Data that was acknowledged survives SIGKILL.
//
// The engine runs in a process of its own, which is started again when it
// aborts. It does so when a client of the native protocol goes away in the
// middle of its handshake: what throws there, only the real server catches.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/ebitengine/purego"
)

// serve makes the engine, started as for one query, open its ports. The last
// statement keeps it running: it reads standard input until that ends.
const serve = `SYSTEM START LISTEN TCP; SYSTEM START LISTEN HTTP; SELECT * FROM file('/dev/stdin', 'LineAsString', 's String') FORMAT Null`

// restartPause keeps an engine that cannot start from taking a whole core.
const restartPause = 100 * time.Millisecond

func main() {
	library := flag.String("library", "libchdb.so", "path of the engine")
	data := flag.String("data", "", "directory of the data, made if missing")
	tcp := flag.Int("tcp", 9000, "port of the native protocol")
	http := flag.Int("http", 8123, "port of the HTTP interface")
	config := flag.String("config", "", "the engine's configuration file, if any")
	engine := flag.Bool("engine", false, "be the engine's process; for the program itself")
	flag.Parse()
	if *data == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	var err error
	if *engine {
		err = run(*library, *data, *config, *tcp, *http)
	} else {
		err = supervise(append(os.Args[1:], "--engine"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "clickhouse-server:", err)
		os.Exit(1)
	}
}

// supervise runs the engine's process until it ends in another way than by
// aborting, or until a signal asks for the end.
func supervise(args []string) error {
	// The engine dies with the thread that started it.
	runtime.LockOSThread()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("looking for this program: %w", err)
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	for {
		cmd := exec.Command(self, args...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("starting the engine: %w", err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for running, stopping := true, false; running; {
			select {
			case s := <-signals:
				stopping = true
				cmd.Process.Signal(s)
			case err := <-ended:
				if stopping || err == nil {
					return nil
				}
				status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
				if !ok || !status.Signaled() || status.Signal() != syscall.SIGABRT {
					return fmt.Errorf("the engine ended: %w", err)
				}
				fmt.Fprintln(os.Stderr, "clickhouse-server: the engine aborted, starting it again")
				time.Sleep(restartPause)
				running = false
			}
		}
	}
}

func run(library, data, config string, tcp, http int) error {
	// The engine's thread is the one that calls it.
	runtime.LockOSThread()
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	stop, err := ownStdin()
	if err != nil {
		return err
	}
	handle, err := purego.Dlopen(library, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return fmt.Errorf("loading the engine: %w", err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		stop.Close()
		<-signals // of one who will not wait
		os.Exit(1)
	}()

	var query func(argc int32, argv **byte) uintptr
	purego.RegisterLibFunc(&query, handle, "chdb_query_cmdline")
	args := []string{"clickhouse", "--path=" + data, "--listen_host=127.0.0.1",
		"--tcp_port=" + strconv.Itoa(tcp), "--http_port=" + strconv.Itoa(http),
		"--multiquery", "--query=" + serve}
	if config != "" {
		args = append(args, "--config-file="+config)
	}
	argv := arguments(args...)
	query(int32(len(argv)-1), &argv[0])
	runtime.KeepAlive(argv)
	return nil
}

// ownStdin puts a pipe of our own in the place of standard input. Closing the
// end it returns ends the query that waits for input, and thereby the server.
func ownStdin() (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	if err := syscall.Dup3(int(r.Fd()), 0, 0); err != nil {
		return nil, fmt.Errorf("replacing standard input: %w", err)
	}
	r.Close()
	return w, nil
}

// arguments returns the strings as C has them: each ends in a zero byte, and
// the list in a null pointer.
func arguments(args ...string) []*byte {
	argv := make([]*byte, 0, len(args)+1)
	for _, a := range args {
		argv = append(argv, &append([]byte(a), 0)[0])
	}
	return append(argv, nil)
}
