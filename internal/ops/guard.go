package ops

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/churnstream/churnstream/internal/problem"
)

// Guard decides who may change something by HTTP. It is safe for concurrent
// use.
//
// With a token, a request must carry it as "Authorization: Bearer …", wherever
// it comes from. Without one, requests are taken only by a Server that listens
// on a loopback address, from a client on this machine, addressed to a loopback
// name or address, and not from a page of another site. The last two keep a
// browser on this machine from being talked into it: by a page that posts to
// us, or by a name that was made to resolve to 127.0.0.1 (DNS rebinding).
// Requests that a proxy has passed on are refused too, as far as they can be
// recognised: by the headers that proxies add, and by HTTP/1.0, which only proxies
// still speak. Where there is a proxy, set a token.
type Guard struct {
	hash  [sha256.Size]byte
	token bool
	sites http.CrossOriginProtection
}

// NewGuard returns a guard that asks for token, or has none if it is empty.
func NewGuard(token string) *Guard {
	return &Guard{hash: sha256.Sum256([]byte(token)), token: token != ""}
}

func forbidden(detail string) *problem.Details {
	return &problem.Details{Status: http.StatusForbidden, Detail: detail}
}

const setToken = " Set a token (CHURN_HTTP_TOKEN or --http-token-file) and send it as Authorization: Bearer."

// Check returns nil for a request that may change something, and else why it may
// not: 401 where a token would help, 403 or 421 otherwise.
func (g *Guard) Check(r *http.Request) *problem.Details {
	if g.token {
		return g.checkToken(r)
	}
	listener, _ := r.Context().Value(listenerKey{}).(net.Addr)
	switch {
	case listener == nil || !loopback(listener):
		return forbidden("Nothing can be changed here: the server is reachable from other machines and has no token." + setToken)
	case !LoopbackHost(r.RemoteAddr):
		return forbidden("Without a token, only clients on this machine may change anything." + setToken)
	case forwarded(r.Header) || !r.ProtoAtLeast(1, 1):
		return forbidden("Without a token, requests that come through a proxy may not change anything." + setToken)
	case !LoopbackHost(r.Host):
		return forbidden("Without a token, requests that change something must be addressed to localhost or a loopback address." + setToken)
	}
	if err := g.sites.Check(r); err != nil {
		return forbidden("Without a token, pages of other sites may not change anything." + setToken)
	}
	return nil
}

func (g *Guard) checkToken(r *http.Request) *problem.Details {
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return &problem.Details{Status: http.StatusUnauthorized, Challenge: "Bearer", Detail: "This needs a token, as Authorization: Bearer."}
	}
	// Hashes have equal lengths, so the time taken says nothing of the token.
	hash := sha256.Sum256([]byte(given))
	if subtle.ConstantTimeCompare(hash[:], g.hash[:]) != 1 {
		return &problem.Details{Status: http.StatusUnauthorized, Challenge: `Bearer error="invalid_token"`, Detail: "The token is not the right one."}
	}
	return nil
}

// CheckReading returns nil for a request that may read. Reading needs no token.
// But where there is none, a server that listens on a loopback address answers
// only what is addressed to it as such: else a page could read in it, by a name
// that was made to resolve to that address (DNS rebinding).
func (g *Guard) CheckReading(r *http.Request) *problem.Details {
	listener, _ := r.Context().Value(listenerKey{}).(net.Addr)
	if g.token || listener == nil || !loopback(listener) || LoopbackHost(r.Host) {
		return nil
	}
	return &problem.Details{Status: http.StatusMisdirectedRequest,
		Detail: "Without a token, requests must be addressed to localhost or a loopback address." + setToken}
}

// Protect returns a handler that passes on the requests that may change
// something and answers others with problem details (RFC 9457).
func (g *Guard) Protect(next http.Handler) http.Handler { return refusing(g.Check, next) }

// ProtectReading is Protect for requests that read, and for all others before
// they are looked at more closely.
func (g *Guard) ProtectReading(next http.Handler) http.Handler {
	return refusing(g.CheckReading, next)
}

func refusing(check func(*http.Request) *problem.Details, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refusal := check(r)
		if refusal == nil {
			next.ServeHTTP(w, r)
			return
		}
		refusal.Write(w)
	})
}

// listenerKey is the key under which a request's context has the net.Addr that
// its Server listens on. The address of the connection would not do: a server
// that listens on all addresses is reached by 127.0.0.1 too.
type listenerKey struct{}

func withListener(ctx context.Context, addr net.Addr) context.Context {
	return context.WithValue(ctx, listenerKey{}, addr)
}

func loopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// LoopbackHost reports whether host:port or host is localhost or a loopback
// address.
func LoopbackHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func forwarded(h http.Header) bool {
	for _, name := range []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip"} {
		if _, ok := h[name]; ok {
			return true
		}
	}
	return false
}
