"""The servers of the cluster, and the replicas that run on them."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence

from api.back.cluster.admission import check_memory, check_replicas, memory_on
from api.back.cluster.controller import ReplicaController
from api.back.cluster.deployment import Deployment
from api.back.cluster.driver import Capabilities, ServerDriver
from api.back.cluster.messages import RETRY_SECONDS
from api.back.cluster.metrics import engine_lines, join_servers
from api.back.cluster.probe import LoadProgress
from api.back.cluster.records import MemoryRecord, ModelVersion, ServerRecord
from api.back.cluster.replica import Replica
from api.back.cluster.status import NO_SERVER, server_record
from api.back.cluster.supervisor import Supervisor
from api.back.settings import BackSettings
from api.back.store.records import DeploymentState
from api.errors import Conflict, NotFound, ServerFault, Unavailable
from runtime.manifest import Manifest

logger = logging.getLogger(__name__)


class ServerPool:
    def __init__(self, settings: BackSettings, drivers: Sequence[ServerDriver]) -> None:
        self.servers = [Supervisor(driver) for driver in drivers]
        self._settings = settings
        self._controllers: dict[Replica, ReplicaController] = {}
        # By server and model: held while the model's files change or load there.
        self._loading: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._loads = LoadProgress()
        # Servers join and are dropped while this runs. A deployment may then ask for more replicas than there
        # are servers: it gets the others as servers join.
        self.elastic = False
        self.why_missing: Callable[[], str | None] = lambda: None  # why servers may not be here that should

    async def start(self) -> None:
        """Start all servers, with empty repositories. One that does not start is tried again later.

        Raises ServerFault where none starts.
        """
        for server in self.servers:
            await asyncio.to_thread(server.driver.repository.clear)
        starts = [server.start() for server in self.servers]
        failures = await asyncio.gather(*starts, return_exceptions=True)
        for failure in failures:
            defect = failure is not None and not isinstance(failure, (ServerFault, OSError))
            if failure is not None and (defect or None not in failures):
                raise failure
        for server, failure in zip(self.servers, failures, strict=True):
            if failure is not None:
                server.keep()

    async def join(self, driver: ServerDriver, versions: set[ModelVersion]) -> Supervisor:
        """Add a server, which is yet to be started. `versions` of what it may hold stay there."""
        await asyncio.to_thread(driver.repository.clear)
        await asyncio.to_thread(driver.repository.keep, versions)
        server = Supervisor(driver)
        self.servers.append(server)
        # The same order in each façade, so that all choose the same servers for a version.
        self.servers.sort(key=lambda each: each.name)
        return server

    async def drop(self, server: Supervisor) -> list[Replica]:
        """Remove a server that is gone, with its replicas, which are returned; their requests fail."""
        lost = self.replicas_on(server)
        for replica in lost:
            replica.become(DeploymentState.UNLOADING)
        self.servers.remove(server)
        await server.stop()
        for replica in lost:
            if (controller := self._controllers.pop(replica, None)) is not None:
                await controller.close()
        return lost

    async def keep(self, versions: set[ModelVersion]) -> None:
        """Remove what earlier runs left in repositories that are not emptied by a start."""
        for server in self.servers:
            await asyncio.to_thread(server.driver.repository.keep, versions)

    async def close(self) -> None:
        await asyncio.gather(*(controller.close() for controller in self._controllers.values()))
        await asyncio.gather(*(server.stop() for server in self.servers))

    def check_replicas(self, replicas: int) -> None:
        """Raises InvalidInput."""
        check_replicas(replicas, len(self.servers), more_may_come=self.elastic)

    async def admit(self, deployment: Deployment, count: int, *, least: int = 1) -> list[Supervisor]:
        """The servers for `count` new replicas: those with memory, few replicas and few requests in flight.

        A server holds a version once, in whatever precision. Where servers join later, `least` are enough.

        Raises Unavailable, Conflict (no memory, no server without that version).
        """
        if not self.servers and least:
            raise Unavailable("; ".join(filter(None, (NO_SERVER, self.why_missing()))), RETRY_SECONDS)
        free = self.free(deployment)
        if self.elastic and len(free) >= least:
            count = min(count, len(free))
        if len(free) < count:
            raise Conflict(
                f"a server holds a version once, and none that drains takes one: {deployment.name} needs "
                f"{count} more, {len(free)} of {len(self.servers)} can take it"
            )
        up = [server for server in free if server.up]
        for server in [server for server in free if not server.up][: max(0, count - len(up))]:
            _ = server.client  # raises Unavailable
        found = [(server, await server.driver.capabilities()) for server in up]

        def check(capabilities: Sequence[Capabilities]) -> None:
            engine = self._settings.engine
            check_memory(deployment.manifest, deployment.record.variant, engine, capabilities)

        found.sort(key=lambda place: (not _passes(check, [place[1]]), *self._burden(place[0])))
        check([capabilities for _, capabilities in found[:count]])
        return [server for server, _ in found[:count]]

    async def memory(self, manifest: Manifest) -> MemoryRecord:
        """What a replica of each variant needs on the servers that are up. Raises Unavailable."""
        found = await asyncio.gather(*(server.driver.capabilities() for server in self.servers if server.up))
        if not found:
            raise Unavailable(NO_SERVER, RETRY_SECONDS)
        engine = self._settings.engine
        needed = {
            variant: max(memory_on(each, manifest, variant, engine) for each in found)
            for variant in manifest.variants
        }
        free = [each.free_memory for each in found if each.free_memory is not None]
        return MemoryRecord(needed, max(free, default=None))

    def _burden(self, server: Supervisor) -> tuple[int, int]:
        """The replicas that it holds, and the requests that these answer now."""
        held = self.replicas_on(server)
        return len(held), sum(replica.in_flight for replica in held)

    def free(self, deployment: Deployment) -> list[Supervisor]:
        """The servers that could take one more replica, in the order of `places`."""
        used = {replica.server for replica in self._controllers if replica.version == deployment.version}
        return [server for server in self.places() if server not in used and not server.draining]

    def places(self) -> list[Supervisor]:
        """The servers, the best for a new replica first: it is up, and holds few replicas."""
        return sorted(self.servers, key=lambda server: (not server.up, len(self.replicas_on(server))))

    def replicas_on(self, server: Supervisor) -> list[Replica]:
        return [replica for replica in self._controllers if replica.server is server]

    def find(self, name: str) -> Supervisor:
        """Raises NotFound."""
        for server in self.servers:
            if server.name == name:
                return server
        raise NotFound(f"server {name!r} does not exist; GET /v1/servers lists them")

    def record(self, server: Supervisor) -> ServerRecord:
        """The server as it is now."""
        return server_record(server, self.replicas_on(server))

    def least_useful(self, replicas: Sequence[Replica]) -> list[Replica]:
        """Those that do not serve come first, then those on the fullest servers."""
        return sorted(replicas, key=lambda item: (item.ready, -len(self.replicas_on(item.server))))

    def add_replica(self, deployment: Deployment, server: Supervisor) -> ReplicaController:
        variant = deployment.record.variant
        replica = Replica(deployment.version_record, deployment.manifest, variant, server, deployment.traffic)
        lock = self._loading[server.name, deployment.record.model]
        controller = ReplicaController(replica, self._settings, lock, self._loads)
        deployment.replicas.append(replica)
        self._controllers[replica] = controller
        return controller

    async def place(self, deployment: Deployment, servers: Sequence[Supervisor]) -> None:
        """Add a replica on each server, and let it load, however often that takes another try."""
        for server in servers:
            controller = self.add_replica(deployment, server)
            try:
                await controller.publish()
            except Exception as error:  # of the disk or of a bucket: the others can still be served
                logger.exception("%s cannot be laid out on %s", deployment.name, server.name)
                reason = error.strerror if isinstance(error, OSError) and error.strerror else error
                controller.replica.become(DeploymentState.FAILED, f"its files cannot be laid out: {reason}")
            else:
                controller.start()

    async def add(self, deployment: Deployment, count: int) -> None:
        """Add `count` replicas where there is room; all are removed again where one does not load.

        Where servers join later, fewer may be added now.

        Raises as `admit` and `grow`.
        """
        servers = await self.admit(deployment, count, least=0)
        before = list(deployment.replicas)
        try:
            await self.grow(deployment, servers)
        except BaseException:
            added = [item for item in deployment.replicas if item not in before]
            await asyncio.shield(self.shrink(deployment, added))
            raise

    async def grow(self, deployment: Deployment, servers: Sequence[Supervisor]) -> None:
        """Add a replica on each server, and wait until all answer. Raises ServerFault, Conflict, OSError."""
        added = [self.add_replica(deployment, server) for server in servers]
        for controller in added:
            await controller.publish()
            if controller.replica.state is DeploymentState.LOADING:
                controller.start()
        for controller in added:
            replica = controller.replica
            await replica.settled.wait()
            if replica.state is DeploymentState.FAILED:
                raise ServerFault(f"{replica.name} does not load: {replica.error}")
            if replica.state is DeploymentState.UNLOADING:
                raise Conflict(f"{replica.name} was undeployed while it loaded")
        deployment.expected = True

    async def shrink(self, deployment: Deployment, leaving: Sequence[Replica]) -> None:
        """Drain and unload some replicas of a deployment; a second call for the same ones does no harm."""
        known = [self._controllers[replica] for replica in leaving if replica in self._controllers]
        await asyncio.gather(*(controller.remove() for controller in known))
        for replica in leaving:
            self._controllers.pop(replica, None)
        deployment.replicas = [replica for replica in deployment.replicas if replica not in leaving]

    async def engine_metrics(self) -> str:
        """The lmaas_* lines of all servers, in Prometheus' text format; without those that are away."""
        addresses = [server.driver.endpoints.metrics for server in self.servers]
        texts = await asyncio.gather(*map(engine_lines, addresses))
        names = [server.name for server in self.servers]
        return join_servers(dict(zip(names, texts, strict=True)))


def _passes(check: Callable[[Sequence[Capabilities]], None], capabilities: Sequence[Capabilities]) -> bool:
    try:
        check(capabilities)
    except Conflict:
        return False
    return True
