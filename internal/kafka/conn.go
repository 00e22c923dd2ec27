package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/protocol/saslauthenticate"
	"github.com/segmentio/kafka-go/protocol/saslhandshake"
	"github.com/segmentio/kafka-go/sasl"

	"github.com/churnstream/churnstream/internal/retry"
)

// idleTimeout closes connections long before a broker would.
const idleTimeout = 30 * time.Second

// connPool keeps connections to brokers for the requests that kafka-go's
// Transport does not serve as needed: fetches, whose batches it decodes with
// a loss, and metadata and offsets, which it answers from a cache that may be
// seconds old.
type connPool struct {
	cfg    Config
	mu     sync.Mutex
	idle   map[string][]*conn
	closed bool
}

// conn is an authenticated connection to one broker, used by one goroutine at
// a time.
type conn struct {
	*protocol.Conn
	addr     string
	clientID string
	versions map[protocol.ApiKey]int16
	ranges   map[protocol.ApiKey]versionRange // what the broker takes
	lastID   int32
	reused   bool
	expiry   *time.Timer
}

// versionRange is from which to which version a broker takes a request.
type versionRange struct{ min, max int16 }

func newConnPool(cfg Config) *connPool {
	return &connPool{cfg: cfg, idle: map[string][]*conn{}}
}

// do runs one exchange on a connection to addr. The exchange must end before
// ctx does or after limit; a connection on which it failed is closed.
func (p *connPool) do(ctx context.Context, addr string, limit time.Duration, exchange func(*conn) error) error {
	for {
		c, err := p.get(ctx, addr)
		if err != nil {
			return fmt.Errorf("connecting to broker %s: %w", addr, err)
		}
		c.SetDeadline(time.Now().Add(limit))
		stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
		err = exchange(c)
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err == nil {
			p.put(c)
			return nil
		}
		c.Close()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// A broker may have closed a connection while it was idle.
		if !c.reused || !lost(err) {
			return fmt.Errorf("talking to broker %s: %w", addr, err)
		}
	}
}

// lost reports whether err says that the connection is gone.
func lost(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op) && !op.Timeout()
}

func (p *connPool) get(ctx context.Context, addr string) (*conn, error) {
	p.mu.Lock()
	for idle := p.idle[addr]; len(idle) > 0; {
		c := idle[len(idle)-1]
		idle[len(idle)-1] = nil
		idle = idle[:len(idle)-1]
		p.idle[addr] = idle
		if c.expiry.Stop() {
			p.mu.Unlock()
			c.reused = true
			return c, nil
		}
	}
	p.mu.Unlock()
	return p.dial(ctx, addr)
}

func (p *connPool) put(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.Close()
		return
	}
	c.expiry = time.AfterFunc(idleTimeout, func() { p.expire(c) })
	p.idle[c.addr] = append(p.idle[c.addr], c)
}

func (p *connPool) expire(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.Close()
	idle := p.idle[c.addr]
	for i := range idle {
		if idle[i] == c {
			p.idle[c.addr] = append(idle[:i], idle[i+1:]...)
			break
		}
	}
	if len(p.idle[c.addr]) == 0 {
		delete(p.idle, c.addr)
	}
}

func (p *connPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, idle := range p.idle {
		for _, c := range idle {
			c.expiry.Stop()
			c.Close()
		}
	}
	clear(p.idle)
}

func (p *connPool) dial(ctx context.Context, addr string) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.DialTimeout)
	defer cancel()
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		raw.Close()
		return nil, err
	}
	if cfg := p.cfg.TLS; cfg != nil {
		if cfg.ServerName == "" {
			cfg = cfg.Clone()
			cfg.ServerName = host
		}
		raw = tls.Client(raw, cfg)
	}
	c := &conn{Conn: protocol.NewConn(raw, p.cfg.ClientID), addr: addr, clientID: p.cfg.ClientID}
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	err = c.negotiate()
	if err == nil && p.cfg.SASL != nil {
		portNumber, _ := strconv.Atoi(port)
		err = c.authenticate(sasl.WithMetadata(ctx, &sasl.Metadata{Host: host, Port: portNumber}), p.cfg.SASL)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *conn) negotiate() error {
	m, err := c.RoundTrip(&apiversions.Request{})
	if err != nil {
		return fmt.Errorf("negotiating versions: %w", err)
	}
	res := m.(*apiversions.Response)
	if res.ErrorCode != 0 {
		return fmt.Errorf("negotiating versions: %w", kafkago.Error(res.ErrorCode))
	}
	c.versions = make(map[protocol.ApiKey]int16, len(res.ApiKeys))
	c.ranges = make(map[protocol.ApiKey]versionRange, len(res.ApiKeys))
	for _, k := range res.ApiKeys {
		key := protocol.ApiKey(k.ApiKey)
		c.versions[key] = key.SelectVersion(k.MinVersion, k.MaxVersion)
		c.ranges[key] = versionRange{k.MinVersion, k.MaxVersion}
	}
	c.SetVersions(c.versions)
	return nil
}

func (c *conn) authenticate(ctx context.Context, mechanism sasl.Mechanism) error {
	m, err := c.RoundTrip(&saslhandshake.Request{Mechanism: mechanism.Name()})
	if err != nil {
		return fmt.Errorf("SASL handshake: %w", err)
	}
	if code := m.(*saslhandshake.Response).ErrorCode; code != 0 {
		return fmt.Errorf("SASL handshake: %w", kafkago.Error(code))
	}
	session, data, err := mechanism.Start(ctx)
	if err != nil {
		return fmt.Errorf("SASL: %w", err)
	}
	for done := false; !done; {
		m, err := c.RoundTrip(&saslauthenticate.Request{AuthBytes: data})
		if err != nil {
			// Some brokers hang up on wrong credentials without a word.
			return fmt.Errorf("SASL: broker hung up, are the credentials right? %w", err)
		}
		res := m.(*saslauthenticate.Response)
		if res.ErrorCode != 0 {
			return fmt.Errorf("SASL: %w: %s", kafkago.Error(res.ErrorCode), res.ErrorMessage)
		}
		if done, data, err = session.Next(ctx, res.AuthBytes); err != nil {
			return fmt.Errorf("SASL: %w", err)
		}
	}
	return nil
}

// metadata asks the brokers in random order for the topics' metadata. That a
// topic does not exist is believed only when no broker knows it: one that has
// just started, or lags behind, does not know yet what the others have created.
func (c *Cluster) metadata(ctx context.Context, topics ...string) (*metadata.Response, error) {
	var err error
	var doubtful *metadata.Response
	for _, i := range rand.Perm(len(c.cfg.Brokers)) {
		var res *metadata.Response
		err = c.conns.do(ctx, c.cfg.Brokers[i], c.cfg.RequestTimeout, func(conn *conn) error {
			m, err := conn.RoundTrip(&metadata.Request{TopicNames: topics})
			if err == nil {
				res = m.(*metadata.Response)
			}
			return err
		})
		if err == nil {
			if knowsAll(res) {
				return res, nil
			}
			doubtful = res
		}
		if ctx.Err() != nil {
			break
		}
	}
	if doubtful != nil {
		return doubtful, nil
	}
	return nil, fmt.Errorf("asking for metadata: %w", err)
}

// knowsAll reports whether all topics asked for exist.
func knowsAll(res *metadata.Response) bool {
	for _, t := range res.Topics {
		if t.ErrorCode == int16(kafkago.UnknownTopicOrPartition) {
			return false
		}
	}
	return true
}

// listOffsets asks a partition's leader once for its first and end offsets.
func (c *Cluster) listOffsets(ctx context.Context, topic string, partition int, level kafkago.IsolationLevel) (first, end int64, err error) {
	addr, err := c.leader(ctx, topic, partition)
	if err != nil {
		if errors.Is(err, ErrUnknownTopic) {
			err = retry.Permanent(err)
		}
		return 0, 0, err
	}
	ask := func(conn *conn, timestamp int64) (int64, error) {
		m, err := conn.RoundTrip(&listoffsets.Request{
			ReplicaID:      -1,
			IsolationLevel: int8(level),
			Topics: []listoffsets.RequestTopic{{
				Topic: topic,
				Partitions: []listoffsets.RequestPartition{{
					Partition:          int32(partition),
					CurrentLeaderEpoch: -1,
					Timestamp:          timestamp,
				}},
			}},
		})
		if err != nil {
			return 0, err
		}
		res := m.(*listoffsets.Response)
		if len(res.Topics) != 1 || len(res.Topics[0].Partitions) != 1 {
			return 0, errors.New("answer does not fit the question")
		}
		p := res.Topics[0].Partitions[0]
		if p.ErrorCode != 0 {
			return 0, kafkago.Error(p.ErrorCode)
		}
		return p.Offset, nil
	}
	err = c.conns.do(ctx, addr, c.cfg.RequestTimeout, func(conn *conn) error {
		if first, err = ask(conn, kafkago.FirstOffset); err == nil {
			end, err = ask(conn, kafkago.LastOffset)
		}
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("listing offsets of %s/%d: %w", topic, partition, err)
	}
	// The log may have been cut between the two questions.
	return first, max(first, end), nil
}
