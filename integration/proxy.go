//go:build integration

package integration

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
)

// The api keys of Kafka's requests that tests look at.
const (
	apiProduce = 0
	apiFetch   = 1
)

// Proxy stands between clients and one broker and can damage or lose answers.
type Proxy struct {
	ln     net.Listener
	target string

	mu     sync.Mutex
	answer func(api int16, body []byte) bool
	conns  map[net.Conn]struct{}
	closed bool
}

func newProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{ln: ln, target: target, conns: map[net.Conn]struct{}{}}
	go p.accept()
	t.Cleanup(p.close)
	return p
}

// Addr returns the address that clients use.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// OnAnswer has fn called with every answer of the broker: the api key of its
// request and its bytes without the size, which fn may change. If fn returns
// false the answer is lost and the connection broken. Nil ends it.
func (p *Proxy) OnAnswer(fn func(api int16, body []byte) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = fn
}

func (p *Proxy) close() {
	p.ln.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for c := range p.conns {
		c.Close()
	}
}

func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) drop(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) accept() {
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return
		}
		go p.serve(client)
	}
}

func (p *Proxy) serve(client net.Conn) {
	broker, err := net.Dial("tcp", p.target)
	if err != nil {
		client.Close()
		return
	}
	if !p.keep(client) || !p.keep(broker) {
		client.Close()
		broker.Close()
		return
	}
	defer p.drop(client)
	defer p.drop(broker)
	var requests sync.Map // correlation id → api key
	go func() {
		defer client.Close()
		defer broker.Close()
		pass(broker, client, func(body []byte) bool {
			if len(body) < 8 {
				return false
			}
			requests.Store(string(body[4:8]), int16(binary.BigEndian.Uint16(body)))
			return true
		})
	}()
	pass(client, broker, func(body []byte) bool {
		api, _ := requests.LoadAndDelete(string(body[:4]))
		p.mu.Lock()
		fn := p.answer
		p.mu.Unlock()
		key, ok := api.(int16)
		return fn == nil || !ok || fn(key, body)
	})
}

// pass passes messages on, each preceded by its size in four bytes, until fn
// returns false or a side is gone.
func pass(to io.Writer, from io.Reader, fn func(body []byte) bool) {
	for {
		message := make([]byte, 4)
		if _, err := io.ReadFull(from, message); err != nil {
			return
		}
		size := binary.BigEndian.Uint32(message)
		if size < 4 || size > 1<<28 {
			return
		}
		message = append(message, make([]byte, size)...)
		if _, err := io.ReadFull(from, message[4:]); err != nil {
			return
		}
		if !fn(message[4:]) {
			return
		}
		if _, err := to.Write(message); err != nil {
			return
		}
	}
}
