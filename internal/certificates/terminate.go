package certificates

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
)

// Terminate listens with TLS on a loopback port and passes on what clients say to
// a server that speaks none, until the listener is closed.
func Terminate(server *tls.Config, target string) (net.Listener, error) {
	ln, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		return nil, fmt.Errorf("listening with TLS: %w", err)
	}
	go func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			go pass(client, target)
		}
	}()
	return ln, nil
}

// pass connects a client with a server until one of them closes the connection.
func pass(client net.Conn, target string) {
	defer client.Close()
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, client)
		server.Close()
	}()
	_, _ = io.Copy(client, server)
}
