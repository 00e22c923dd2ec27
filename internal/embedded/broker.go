// Package embedded runs a Kafka broker and a schema registry inside the
// process, on loopback, for the demo and for tests. Both can keep their data
// in a directory and take it up again after a restart or a crash. They are
// stand-ins of one node each and no substitute for a real cluster.
package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

var (
	// ErrAddressInUse is matched when another process listens on the address.
	ErrAddressInUse = errors.New("address is in use")
	// ErrDirectoryInUse is matched when another process works on the directory.
	ErrDirectoryInUse = errors.New("directory is in use by another process")
	// ErrForeignDirectory is matched when the directory holds files that are
	// not ours, which a broker or registry might overwrite.
	ErrForeignDirectory = errors.New("directory holds other files")
)

// BrokerConfig configures StartBroker. The zero value is a broker in memory
// on a free loopback port.
type BrokerConfig struct {
	// Addr is the host:port to listen on. Default "127.0.0.1:0", a free port.
	// Clients are sent back to it, so its host must be one they can reach.
	Addr string
	// Dir keeps topics, records, producer ids and committed offsets. It is
	// made if missing. Default "": everything is in memory.
	Dir string
	// CompactionInterval is the time between two runs of the log cleaner over
	// the compacted topics. It looks at all batches but a partition's
	// last. Default 1 minute.
	CompactionInterval time.Duration
	// MinSessionTimeout is the shortest session timeout a group member may
	// ask for. Default 100 ms, so that tests can lose members quickly.
	MinSessionTimeout time.Duration
	// MessageMaxBytes is the size limit of a record batch. Default 1,048,588,
	// Kafka's own default.
	MessageMaxBytes int
	// SyncWrites waits for the disk after every write. Default off, as in
	// Kafka: data survives the end of the process, not a power cut.
	SyncWrites bool
	// Options are passed to the broker last. Tests use them for users,
	// access rights and the like.
	Options []kfake.Opt
	// Logger receives the broker's warnings and errors. Default none.
	Logger *slog.Logger
}

// Broker is a running embedded broker.
type Broker struct {
	cluster *kfake.Cluster
	addr    string
	lock    *dirLock
}

// StartBroker starts a broker that is ready to be used when it returns.
// Topics are never created by merely naming them. Errors match
// ErrAddressInUse, ErrDirectoryInUse or ErrForeignDirectory where they apply.
func StartBroker(cfg BrokerConfig) (*Broker, error) {
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	if cfg.CompactionInterval <= 0 {
		cfg.CompactionInterval = time.Minute
	}
	if cfg.MinSessionTimeout <= 0 {
		cfg.MinSessionTimeout = 100 * time.Millisecond
	}
	if cfg.MessageMaxBytes <= 0 {
		cfg.MessageMaxBytes = 1_048_588
	}
	if err := checkAddr(cfg.Addr); err != nil {
		return nil, fmt.Errorf("starting embedded broker: %w", err)
	}

	b := &Broker{}
	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) { return listen(network, cfg.Addr) }),
		kfake.GroupMinSessionTimeout(cfg.MinSessionTimeout),
		kfake.BrokerConfigs(map[string]string{
			"log.cleaner.backoff.ms":       strconv.FormatInt(max(cfg.CompactionInterval.Milliseconds(), 1), 10),
			"message.max.bytes":            strconv.Itoa(cfg.MessageMaxBytes),
			"group.min.session.timeout.ms": strconv.FormatInt(max(cfg.MinSessionTimeout.Milliseconds(), 1), 10),
		}),
	}
	if cfg.Logger != nil {
		opts = append(opts, kfake.WithLogger(brokerLog{cfg.Logger}))
	}
	if cfg.Dir != "" {
		lock, err := openDir(cfg.Dir, "broker.lock", "meta.json")
		if err != nil {
			return nil, fmt.Errorf("starting embedded broker: %w", err)
		}
		b.lock = lock
		opts = append(opts, kfake.DataDir(cfg.Dir))
	}
	if cfg.SyncWrites {
		opts = append(opts, kfake.SyncWrites())
	}
	cluster, err := kfake.NewCluster(append(opts, cfg.Options...)...)
	if err != nil {
		b.lock.release()
		return nil, fmt.Errorf("starting embedded broker: %w", err)
	}
	b.cluster = cluster
	b.addr = cluster.ListenAddrs()[0]
	return b, nil
}

// Addr returns the host:port the broker listens on.
func (b *Broker) Addr() string { return b.addr }

// Cluster gives access to the broker's inside, for tests that inject faults.
func (b *Broker) Cluster() *kfake.Cluster { return b.cluster }

// Close stops the broker and writes what is not on disk yet. It may be called
// more than once.
func (b *Broker) Close() {
	b.cluster.Close()
	b.lock.release()
}

// checkAddr refuses addresses that make the broker's advertised host useless.
func checkAddr(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("address %q: %w", addr, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return fmt.Errorf("address %q: name one host, clients are sent back to it", addr)
	}
	return nil
}

func listen(network, addr string) (net.Listener, error) {
	ln, err := net.Listen(network, addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s: %w: stop the other process or choose another port", addr, ErrAddressInUse)
	}
	return ln, err
}

// openDir makes dir if it is missing and locks it for this process. A
// directory with files in it must hold one of ours.
func openDir(dir, lockName string, ours ...string) (*dirLock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making data directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading data directory: %w", err)
	}
	known := len(entries) == 0
	for _, e := range entries {
		if e.Name() == lockName {
			known = true
		}
		for _, name := range ours {
			known = known || e.Name() == name
		}
	}
	if !known {
		return nil, fmt.Errorf("%s: %w: choose an empty directory", dir, ErrForeignDirectory)
	}
	return lockDir(filepath.Join(dir, lockName))
}

// brokerLog passes on what an operator should see: the broker is chatty below
// a warning.
type brokerLog struct{ to *slog.Logger }

func (l brokerLog) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		l.to.Error(fmt.Sprintf(format, args...))
	case kfake.LogLevelWarn:
		l.to.Warn(fmt.Sprintf(format, args...))
	}
}
