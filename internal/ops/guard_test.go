package ops

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// asked returns a request as a Server on listener would hand it on.
func asked(listener, peer, host string, header ...string) *http.Request {
	r := httptest.NewRequest("POST", "/v1/change", nil)
	r.RemoteAddr, r.Host = peer, host
	if listener != "" {
		addr, err := net.ResolveTCPAddr("tcp", listener)
		if err != nil {
			panic(err)
		}
		r = r.WithContext(withListener(r.Context(), addr))
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// Who may read: everybody, but for pages that come by a name of their own.
func TestGuardReading(t *testing.T) {
	const here = "127.0.0.1:8080"
	for name, c := range map[string]struct {
		token   string
		request *http.Request
		taken   bool
	}{
		"on this machine":           {"", asked(here, "127.0.0.1:50000", "localhost:8080"), true},
		"rebound name":              {"", asked(here, "127.0.0.1:50000", "evil.example:8080"), false},
		"rebound name, IPv6":        {"", asked("[::1]:8080", "[::1]:50000", "evil.example:8080"), false},
		"behind a proxy, token set": {"secret", asked(here, "127.0.0.1:50000", "churn.example"), true},
		"on all addresses":          {"", asked("0.0.0.0:8080", "192.0.2.9:50000", "churn.example"), true},
		"another server":            {"", asked("", "127.0.0.1:50000", "churn.example"), true},
	} {
		refusal := NewGuard(c.token).CheckReading(c.request)
		if (refusal == nil) != c.taken || refusal != nil && refusal.Status != http.StatusMisdirectedRequest {
			t.Errorf("%s: %+v", name, refusal)
		}
	}
}

// old makes a request one of HTTP/1.0.
func old(r *http.Request) *http.Request {
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.0", 1, 0
	return r
}

func TestGuardWithoutToken(t *testing.T) {
	const here, peer, host = "127.0.0.1:8080", "127.0.0.1:50000", "127.0.0.1:8080"
	for name, c := range map[string]struct {
		request *http.Request
		refused string // a part of the answer; "" = taken
	}{
		"curl on this machine":         {asked(here, peer, host), ""},
		"by name":                      {asked(here, peer, "LocalHost:8080"), ""},
		"by name without port":         {asked(here, peer, "localhost"), ""},
		"another loopback address":     {asked("127.0.0.2:80", "127.0.0.9:50000", "127.0.0.2"), ""},
		"IPv6":                         {asked("[::1]:8080", "[::1]:50000", "[::1]:8080"), ""},
		"IPv6 without port":            {asked("[::1]:80", "[::1]:50000", "[::1]"), ""},
		"our own page":                 {asked(here, peer, host, "Sec-Fetch-Site", "same-origin", "Origin", "http://127.0.0.1:8080"), ""},
		"our own page, older browser":  {asked(here, peer, host, "Origin", "http://127.0.0.1:8080"), ""},
		"listener on all addresses":    {asked("0.0.0.0:8080", peer, host), "reachable from other machines"},
		"listener on all, IPv6":        {asked("[::]:8080", "[::1]:50000", "[::1]:8080"), "reachable from other machines"},
		"listener on a public address": {asked("192.0.2.7:8080", "192.0.2.7:50000", "192.0.2.7:8080"), "reachable from other machines"},
		"another server":               {asked("", peer, host), "reachable from other machines"},
		"client elsewhere":             {asked(here, "192.0.2.9:50000", host), "on this machine"},
		"client unknown":               {asked(here, "", host), "on this machine"},
		"rebound name":                 {asked(here, peer, "evil.example:8080"), "addressed to localhost"},
		"rebound name, as own page":    {asked(here, peer, "evil.example:8080", "Sec-Fetch-Site", "same-origin", "Origin", "http://evil.example:8080"), "addressed to localhost"},
		"name that starts like ours":   {asked(here, peer, "localhost.evil.example"), "addressed to localhost"},
		"address in a name":            {asked(here, peer, "127.0.0.1.evil.example"), "addressed to localhost"},
		"no host":                      {asked(here, peer, ""), "addressed to localhost"},
		"page of another site":         {asked(here, peer, host, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"), "pages of other sites"},
		"page of another port":         {asked(here, peer, host, "Sec-Fetch-Site", "same-site", "Origin", "http://127.0.0.1:3000"), "pages of other sites"},
		"older browser, another site":  {asked(here, peer, host, "Origin", "https://evil.example"), "pages of other sites"},
		"sandboxed page":               {asked(here, peer, host, "Origin", "null"), "pages of other sites"},
		"proxy on this machine":        {asked(here, peer, host, "X-Forwarded-For", "192.0.2.9"), "proxy"},
		"another kind of proxy":        {asked(here, peer, host, "Via", "1.1 proxy"), "proxy"},
		"a proxy that says nothing":    {old(asked(here, peer, host)), "proxy"},
		"a token that nobody set":      {asked("0.0.0.0:8080", peer, host, "Authorization", "Bearer "), "reachable from other machines"},
	} {
		t.Run(name, func(t *testing.T) {
			refusal := NewGuard("").Check(c.request)
			switch {
			case c.refused == "" && refusal != nil:
				t.Errorf("refused: %v", refusal)
			case c.refused == "":
			case refusal == nil:
				t.Error("taken")
			case refusal.Status != http.StatusForbidden || !strings.Contains(refusal.Detail, c.refused) ||
				!strings.Contains(refusal.Detail, "Set a token"):
				t.Errorf("refused with %d %q, want 403 and %q", refusal.Status, refusal.Detail, c.refused)
			}
		})
	}
}

func TestGuardWithToken(t *testing.T) {
	const token = "correct horse" // a blank in it is part of it
	for given, challenge := range map[string]string{
		"Bearer " + token:        "",
		"bearer " + token:        "",
		"":                       "Bearer",
		"Basic " + token:         "Bearer",
		token:                    "Bearer",
		"Bearer":                 `Bearer error="invalid_token"`,
		"Bearer ":                `Bearer error="invalid_token"`,
		"Bearer correct":         `Bearer error="invalid_token"`,
		"Bearer " + token + "x":  `Bearer error="invalid_token"`,
		"Bearer  " + token:       `Bearer error="invalid_token"`,
		"Bearer CORRECT HORSE":   `Bearer error="invalid_token"`,
		"Bearer " + token + " x": `Bearer error="invalid_token"`,
	} {
		// The token alone counts, wherever the request comes from.
		for _, r := range []*http.Request{
			asked("127.0.0.1:8080", "127.0.0.1:50000", "127.0.0.1:8080", "Authorization", given),
			asked("0.0.0.0:8080", "192.0.2.9:50000", "churn.example", "Authorization", given, "X-Forwarded-For", "192.0.2.8"),
		} {
			refusal := NewGuard(token).Check(r)
			if (refusal == nil) != (challenge == "") ||
				refusal != nil && (refusal.Status != http.StatusUnauthorized || refusal.Challenge != challenge) {
				t.Errorf("%q from %s: %+v", given, r.RemoteAddr, refusal)
			}
			if refusal != nil && strings.Contains(fmt.Sprint(refusal), token) {
				t.Errorf("%q: the answer shows the token: %v", given, refusal)
			}
		}
	}
}

// A Server lets the guard know where it listens, and Protect answers with problem
// details.
func TestProtectOnAServer(t *testing.T) {
	change := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	for _, c := range []struct {
		name, addr, token, bearer string
		status                    int
	}{
		{"loopback", "127.0.0.1:0", "", "", 202},
		{"all addresses", "0.0.0.0:0", "", "", 403},
		{"all addresses, wrong token", "0.0.0.0:0", "secret", "guess", 401},
		{"all addresses, token", "0.0.0.0:0", "secret", "secret", 202},
		{"loopback, no token sent", "127.0.0.1:0", "secret", "", 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := start(t, Config{Addr: c.addr, Gatherer: prometheus.NewRegistry(), Handler: NewGuard(c.token).Protect(change)})
			_, port, _ := net.SplitHostPort(s.Addr())
			r, err := http.NewRequest("POST", "http://127.0.0.1:"+port+"/v1/change", nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.bearer != "" {
				r.Header.Set("Authorization", "Bearer "+c.bearer)
			}
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if res.StatusCode != c.status {
				t.Fatalf("status %d, want %d", res.StatusCode, c.status)
			}
			if c.status == 202 {
				return
			}
			var problem struct {
				Type, Title, Detail string
				Status              int
			}
			if err := json.NewDecoder(res.Body).Decode(&problem); err != nil || problem.Status != c.status || problem.Detail == "" ||
				res.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%+v, %v, %v", problem, res.Header, err)
			}
			if got := res.Header.Get("WWW-Authenticate"); (got != "") != (c.status == 401) {
				t.Errorf("WWW-Authenticate %q", got)
			}
		})
	}
}

// With Limits.Connections open, another client waits until one of them closes.
func TestConnectionsAreBounded(t *testing.T) {
	s, _ := start(t, Config{Gatherer: prometheus.NewRegistry(), Limits: Limits{Connections: 2}})
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	answered := func(conn net.Conn) <-chan string {
		line := make(chan string, 1)
		go func() {
			text, _ := bufio.NewReader(conn).ReadString('\n')
			line <- text
		}()
		_, _ = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
		return line
	}
	first, second := dial(), dial()
	for _, conn := range []net.Conn{first, second} {
		if got := <-answered(conn); !strings.Contains(got, "200") {
			t.Fatalf("got %q", got)
		}
	}
	third := answered(dial())
	if n := len(s.listener.(*boundedListener).slots); n != 2 {
		t.Errorf("%d connections are open, not 2", n)
	}
	select {
	case got := <-third:
		t.Fatalf("a third client got %q", got)
	default:
	}
	first.Close()
	if got := <-third; !strings.Contains(got, "200") {
		t.Errorf("after one has left, the third client got %q", got)
	}
}

func TestWarnsOfPlainTextBeyondThisMachine(t *testing.T) {
	cert, key, _ := certificate(t)
	for _, c := range []struct {
		cfg  Config
		want bool
	}{
		{Config{Addr: "127.0.0.1:0"}, false},
		{Config{Addr: "0.0.0.0:0"}, true},
		{Config{Addr: "0.0.0.0:0", CertFile: cert, KeyFile: key}, false},
	} {
		var log strings.Builder
		c.cfg.Logger = logger(&log)
		s, err := NewServer(c.cfg)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		if got := strings.Contains(log.String(), "without TLS"); got != c.want {
			t.Errorf("%s: warned %v, want %v", s.URL(), got, c.want)
		}
	}
}
